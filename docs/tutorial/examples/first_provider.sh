# The commands of docs/tutorial/first-provider.md. A part begins at a line `# -- name`; tests run the parts in order.

# -- vendor
python first_provider_vendor.py

# -- check
tianji check --config first_provider.yaml --plugin first_provider.py

# -- info
tianji plugins info parrot --plugin first_provider.py

# -- serve
tianji serve --config first_provider.yaml --plugin first_provider.py

# -- request
curl -s -i "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "parrot", "messages": [{"role": "user", "content": "Hello"}], "seed": 7}'

# -- stream
curl -s "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "parrot", "stream": true, "messages": [{"role": "user", "content": "Hello there"}]}'

# -- anthropic
curl -s "$TIANJI/v1/messages" \
  -H "x-api-key: $KEY" \
  -d '{"model": "parrot", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}'

# -- test
pytest -q first_provider_test.py
