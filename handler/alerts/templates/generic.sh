# For any script. Create a caller that signs with: breakglass keys new NAME. Store its secret in a file, and name the
# file in BREAKGLASS_SECRET_FILE. Messages with the same `fingerprint` and `starts_at` count as one alert, however often
# they are sent.
body='{"status": "firing", "labels": @LABELS@,
  "fingerprint": "devvm", "starts_at": "2026-11-24T02:50:00Z"}'
printf %s "$body" | breakglass sign | curl --fail-with-body --max-time 15 --retry 3 -H @- --data-binary "$body" \
  @URL@
