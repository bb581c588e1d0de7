-- The request that wrk sends: a small chat completion.
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer sk-bench"
wrk.body = '{"model": "gpt-5-mini", "max_completion_tokens": 100, "messages": [{"role": "user", "content": "' .. string.rep("hi ", 50) .. '"}]}'
done = function(summary, latency, requests)
   io.write(string.format("RESULT %d %d %.1f %.1f\n", summary.requests, summary.errors.status, summary.duration, latency:percentile(50)))
end
