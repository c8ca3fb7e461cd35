"""SharedLLM in other frameworks: whole documents in an unchanged pipeline.

``sharedllm_integrations.langchain`` is an adapter for LangChain. The files beside it know no
framework: they find documents in prompts, bring them to the model as trees, and say what happened.
"""
