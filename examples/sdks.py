"""The three official clients, pointed at a gateway by their base URL alone."""

import os

from anthropic import Anthropic
from google import genai
from openai import OpenAI

GATEWAY = os.environ.get("SMOLTBOT_GATEWAY", "http://127.0.0.1:8787")


def ask_anthropic() -> str:
    """Claude, as the agent that this key alone makes."""
    with Anthropic(base_url=f"{GATEWAY}/anthropic") as client:
        message = client.messages.create(
            model="claude-haiku-4-5-20251001", max_tokens=256, messages=[{"role": "user", "content": "Hello"}]
        )
    return "".join(block.text for block in message.content if block.type == "text")


def ask_openai() -> str:
    """GPT, as the agent named my-coder."""
    with OpenAI(base_url=f"{GATEWAY}/agent/my-coder/openai/v1") as client:
        completion = client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "Hello"}])
    return completion.choices[0].message.content or ""


def ask_gemini() -> str:
    """Gemini."""
    with genai.Client(http_options={"base_url": f"{GATEWAY}/gemini"}) as client:
        answer = client.models.generate_content(model="gemini-2.5-flash", contents="Hello")
    return answer.text or ""


if __name__ == "__main__":
    for ask in (ask_anthropic, ask_openai, ask_gemini):
        print(ask.__name__, "->", ask())  # noqa: T201 - an example shows its result
