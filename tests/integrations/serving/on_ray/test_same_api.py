"""Tests of the server that run again on Ray, with the fixtures of this folder.

pytest -m slow tests/integrations/serving/on_ray
"""

from __future__ import annotations

import pytest

from tests.integrations.serving.test_answers import (  # noqa: F401  # the same tests, on Ray
    test_a_question_is_answered_from_the_memory,
    test_a_stop_text_ends_the_answer,
    test_a_stream_says_the_same_as_the_whole,
    test_file_search_names_the_store_and_filters,
    test_other_sites_pages_are_refused_without_keys,
    test_the_official_client_raises_its_own_errors,
)
from tests.integrations.serving.test_recorded import (  # noqa: F401
    test_recorded_requests_are_answered,
)
from tests.integrations.serving.test_responses import (  # noqa: F401
    test_the_events_of_a_stream_make_the_response,
    test_what_is_kept_cannot_be_cancelled_or_streamed,
)
from tests.integrations.serving.test_schema import (  # noqa: F401
    session,
    test_no_request_fails_in_the_server,
)
from tests.integrations.serving.test_stores import (  # noqa: F401
    test_a_store_reads_searches_filters_and_forgets,
    test_any_id_of_an_index_can_be_named,
    test_batches_and_files_that_cannot_be_read,
    test_filters_of_another_form_are_refused,
    test_unknown_cursors_are_refused,
)
from tests.integrations.serving.test_tenants import (  # noqa: F401
    test_a_tenant_sees_its_own_only,
    test_wrong_keys_are_refused,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Ray and what it brings
