"""OpenAI's own client, pointed at the gateway: pip install openai."""

import os

from openai import OpenAI

client = OpenAI(base_url=f"{os.environ['TIANJI']}/v1", api_key=os.environ["KEY"])
answer = client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Hello"}])
print(answer.choices[0].message.content)
