# The commands of docs/tutorial/first-guardrail.md. A part begins at a line `# -- name`; tests run the parts in order.

# -- chain
tianji plugins --chain --config first_guardrail.yaml --plugin first_guardrail.py

# -- serve
tianji serve --config first_guardrail.yaml --plugin first_guardrail.py

# -- blocked
curl -s -i "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "echo", "messages": [{"role": "user", "content": "When does Bluebird land?"}]}'

# -- allowed
curl -s -i "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "echo", "messages": [{"role": "user", "content": "When does the plane land?"}]}'

# -- masked
curl -s "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "echo", "guardrails": ["mask-people"], "messages": [{"role": "user", "content": "Ask Ada."}]}'

# -- masked-stream
curl -s "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "echo", "stream": true, "guardrails": ["mask-people"],
       "messages": [{"role": "user", "content": "Ask Ada."}]}'

# -- test
pytest -q first_guardrail_test.py
