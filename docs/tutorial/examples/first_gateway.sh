# The commands of docs/tutorial/first-gateway.md. A part begins at a line `# -- name`; tests run the parts in order.

# -- serve
tianji serve

# -- request
curl -s "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "echo/echo", "messages": [{"role": "user", "content": "Hello"}]}'

# -- stream
curl -s "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "echo/echo", "stream": true, "messages": [{"role": "user", "content": "Hello there"}]}'

# -- anthropic
curl -s "$TIANJI/v1/messages" \
  -H "x-api-key: $KEY" \
  -d '{"model": "echo/echo", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}'

# -- error
curl -s -i "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "echo/fail-429", "messages": [{"role": "user", "content": "Hello"}], "num_retries": 0}'

# -- check
tianji check --config first_gateway.yaml

# -- serve-config
tianji serve --config first_gateway.yaml

# -- failover
curl -s -i "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}'

# -- fallback
curl -s -i "$TIANJI/v1/chat/completions" \
  -H "Authorization: Bearer $KEY" \
  -d '{"model": "broken", "messages": [{"role": "user", "content": "Hello"}]}'

# -- client
python first_gateway_client.py

# -- health
curl -s "$TIANJI/health" -H "Authorization: Bearer $KEY"
