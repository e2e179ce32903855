# Any script. A caller that signs: breakglass keys new NAME; its secret is in a file that BREAKGLASS_SECRET_FILE names.
# The same `fingerprint` and `starts_at` are the same alert, however often it is sent.
body='{"status": "firing", "labels": @LABELS@,
  "fingerprint": "devvm", "starts_at": "2026-11-24T02:50:00Z"}'
printf %s "$body" | breakglass sign | curl --fail-with-body --max-time 15 --retry 3 -H @- --data-binary "$body" \
  @URL@
