#!/usr/bin/python3 -IS
"""Verifies an RDS IAM token as AWS does, for the tests.

  verify.py check CONFIG USER    the token on standard input: for aws_auth.c
  verify.py tool CONFIG          the protocol of MariaDB's auth_pam_tool on standard input and output

Exit code 0 accepts the login. CONFIG is JSON, read at each login, so that a test may change it:

  {"hosts": ["localhost:3306"],        the names and ports that a token may be for
   "regions": ["eu-west-1"],           the regions likewise
   "keys": {"AKIA...": {"secret": "...", "session_token": null, "users": ["app"]}},
                                       who may sign tokens, and for which database users (rds-db:connect)
   "max_age": 900,                     seconds after which a token is expired; never above AWS's own 900
   "log": "/path"}                     one JSON object per login: time, user, bytes (of the token), verdict

Runs with -IS: without the environment and installed modules, which also halves the start-up time.
"""

import datetime
import hashlib
import hmac
import json
import sys
import time
from urllib.parse import parse_qsl, quote

LIFETIME = 900  # seconds; AWS's
CLOCK_SKEW = 300  # seconds that a token may be in the future


def encode(text):
    """Percent-encodes as Signature Version 4 requires."""
    return quote(text, safe="-_.~")


def signature(secret, host, query, scope, date):
    """The signature of a presigned `GET https://HOST/?QUERY` whose only signed header is the host."""
    canonical_query = "&".join(sorted(encode(key) + "=" + encode(value) for key, value in query.items()))
    request = ["GET", "/", canonical_query, "host:" + host, "", "host", hashlib.sha256(b"").hexdigest()]
    hashed = hashlib.sha256("\n".join(request).encode()).hexdigest()
    to_sign = "\n".join(["AWS4-HMAC-SHA256", date, "/".join(scope), hashed])
    key = ("AWS4" + secret).encode()
    for part in scope:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def refusal(config, user, token):
    """The reason to refuse the token, or None. Contains no secret."""
    host, separator, text = token.partition("/?")
    if not separator:
        return "no token"
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        return "no query"
    query = dict(pairs)
    if len(query) != len(pairs):
        return "a parameter is there twice"
    fixed = {"Action": "connect", "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-SignedHeaders": "host"}
    for name, value in fixed.items():
        if query.get(name) != value:
            return name
    try:
        key_id, *scope = query["X-Amz-Credential"].split("/")
        day, region, service, end = scope
        date, expires = query["X-Amz-Date"], int(query["X-Amz-Expires"])
        signed = query.pop("X-Amz-Signature")
        utc = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    except (KeyError, ValueError):
        return "a parameter is missing or malformed"

    key = config["keys"].get(key_id)
    if key is None:
        return "unknown key"
    if (day, service, end) != (date[:8], "rds-db", "aws4_request"):
        return "scope"
    if region not in config["regions"]:
        return "region"
    if host not in config["hosts"]:
        return "host"
    if query.get("DBUser") != user:
        return "another user's"
    if user not in key["users"]:
        return "not allowed"
    if query.get("X-Amz-Security-Token") != key["session_token"]:
        return "session token"
    age = time.time() - utc.timestamp()
    if age > min(expires, LIFETIME, config["max_age"]):
        return "expired"
    if age < -CLOCK_SKEW:
        return "from the future"
    if not hmac.compare_digest(signature(key["secret"], host, query, scope, date), signed):
        return "signature"
    return None


def lets_in(path, user, token):
    """Verifies a login and logs the result."""
    with open(path) as file:
        config = json.load(file)
    why = refusal(config, user, token)
    line = {"time": time.time(), "user": user, "bytes": len(token), "verdict": why or "ok"}
    # One write per line, so that concurrent logins do not mix lines.
    with open(config["log"], "a") as log:
        log.write(json.dumps(line) + "\n")
    return why is None


def check(path, user):
    """The token as a client sends it: with a terminating zero."""
    token = sys.stdin.buffer.read().rstrip(b"\0").decode("utf-8", "replace")
    return lets_in(path, user, token)


def tool(path):
    """Replaces the helper program of MariaDB's auth_pam.so, which would call PAM.

    The server sends a byte of flags, the user and the service; is asked for the token with `C` and a prompt whose
    first byte says that it is a secret; sends it; and takes `E` and exit code 0 for a yes. A text has its length in
    two bytes before it.
    """
    server, answer = sys.stdin.buffer, sys.stdout.buffer

    def read_text():
        return server.read(int.from_bytes(server.read(2), "big")).decode("utf-8", "replace")

    server.read(1)
    user, _service = read_text(), read_text()
    prompt = b"\x04token"
    answer.write(b"C" + len(prompt).to_bytes(2, "big") + prompt)
    answer.flush()
    if not lets_in(path, user, read_text().rstrip("\0")):
        return False
    answer.write(b"E")
    answer.flush()
    return True


if __name__ == "__main__":
    way, *arguments = sys.argv[1:]
    sys.exit(0 if {"check": check, "tool": tool}[way](*arguments) else 1)
