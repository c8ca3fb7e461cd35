"""SharedLLM in other frameworks: whole documents in an unchanged pipeline.

``sharedllm_integrations.langchain`` and ``sharedllm_integrations.llamaindex`` are adapters, neither
of which needs the other. The files beside them know no framework: they find documents in prompts,
bring them to the model as trees, and say what happened.
"""
