"""The scripted LLM provider: one process that speaks Anthropic, OpenAI and Gemini, byte by byte.

`process.ProviderProcess` starts it for a test; `script.Script` lists what a request may ask of it in the
header `x-script`; `server.py` lists the control plane under `/__`. It judges, too: ANALYSIS_BASE_URL is
`{url}/__judge`, MNEMOM_ANALYZE_URL `{url}/__analyze/v1/analyze`, and `analyser.py` lists what they answer and when.
"""
