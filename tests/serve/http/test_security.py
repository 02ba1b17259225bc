"""Who gets in: an attacker's tests."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from pipeline.config import Serve
from pipeline.errors import SettingsError
from pipeline.register import tables as t
from pipeline.register.orders import RESERVED, Act, RevokeToken
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.tokens import ROLES, Token
from pipeline.serve.http.headers import ALWAYS
from pipeline.serve.http.limits import KNOWN, Failures, Rates
from pipeline.serve.http.security import is_loopback, needs_tokens
from pipeline.serve.http.server import check
from tests.register.making import everything
from tests.serve.http.conftest import HERE, bearer, connected

OF = "/v1/streams/readings"
#: What needs no token anywhere.
PUBLIC = {"/healthz", "/readyz"}
WORDS = ("promote", "approve", "refuse")
STEERED = ("pause", "resume", "run-now")
#: The least role that each act takes.
ACTS = {
    **dict.fromkeys(
        (f"{OF}/{act}" for act in ("retrain", "pause", "resume", "tasks/1")), "operator"
    ),
    **dict.fromkeys((f"/v1/schedules/nightly/{act}" for act in STEERED), "operator"),
    **dict.fromkeys(
        (f"{OF}/{act}" for act in ("rollback", "envelope", *map("versions/1/{}".format, WORDS))),
        "approver",
    ),
    **dict.fromkeys(("/v1/tokens", "/v1/tokens/revoke"), "approver"),
}
ACT = {"reason": "r", "actor": "ada"}


def routes(client: TestClient) -> list[tuple[str, str]]:
    """(method, path) of everything that the document names, with names and numbers put in."""
    document = client.get("/v1/openapi.json").json()
    put = {"{name}": "readings", "{number}": "1"}
    return [
        (method.upper(), re.sub(r"\{\w+\}", lambda m: put.get(m[0], "1"), path))
        for path, methods in document["paths"].items()
        for method in methods
    ]


def test_nothing_is_told_without_a_token(client: TestClient, guarded: TestClient) -> None:
    """Every path there is, the document too: 401, and how to ask. None but health is left out."""
    every = routes(client)
    assert len(every) > 25
    for method, path in [*every, ("GET", "/v1/openapi.json"), ("OPTIONS", "/v1/streams")]:
        found = guarded.request(method, path, json=ACT if method == "POST" else None)
        if path in PUBLIC:
            assert found.status_code == 200
            continue
        assert found.status_code == 401, (method, path)
        assert found.headers["www-authenticate"].startswith("Bearer")


def test_the_document_says_what_needs_a_token(client: TestClient) -> None:
    """As the gate has it: a generated client shows one, by the scheme that HTTP has for it."""
    document = client.get("/v1/openapi.json").json()
    ((name, scheme),) = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, methods in document["paths"].items():
        for told in methods.values():
            assert told.get("security") == (None if path in PUBLIC else [{name: []}]), path


@pytest.mark.parametrize(
    "path", ["//v1/streams", "/V1/streams", "/./v1/streams", "/%2e/v1/streams", "/x/../v1/streams"]
)
def test_no_way_of_writing_a_path_goes_round_the_gate(guarded: TestClient, path: str) -> None:
    """What the gate takes for another path, the router does too."""
    found = guarded.get(path)
    assert found.status_code in (401, 404)
    assert "readings" not in found.text


@pytest.mark.parametrize(
    "given",
    [
        "Bearer ",
        "Bearer tidemark_1_",
        "Bearer tidemark_99_abc",
        "Bearer tidemark_1_" + "A" * 43,
        "Bearer other_1_x",
        "Bearer \xff",
        "Bearer 1' OR '1'='1",
        "Basic YWRhOmFkYQ==",
        "tidemark_1_x",
    ],
)
def test_what_is_no_token_is_none(guarded: TestClient, given: str) -> None:
    """Nothing but the very text lets in."""
    headers = {b"Authorization": given.encode("latin-1")}
    assert guarded.get("/v1/streams", headers=headers).status_code == 401


def test_a_token_works_until_it_is_revoked(
    guarded: TestClient, registry: SqlRegistry, tokens: dict[str, str]
) -> None:
    """From the very next request on; a part of it, or more, never did."""
    good = tokens["reader"]
    assert guarded.get("/v1/streams", headers=bearer(good)).status_code == 200
    for bad in (good[:-1], good + "x", good.swapcase(), tokens["operator"][:-1] + "x"):
        assert guarded.get("/v1/streams", headers=bearer(bad)).status_code == 401
    registry.act(None, RevokeToken(name="reader"), Act(actor="root", reason="left"))
    assert guarded.get("/v1/streams", headers=bearer(good)).status_code == 401


def test_two_authorizations_are_none(guarded: TestClient, tokens: dict[str, str]) -> None:
    """A proxy and we might each take another one."""
    headers = [("Authorization", f"Bearer {tokens[role]}") for role in ("reader", "approver")]
    assert guarded.get("/v1/streams", headers=headers).status_code == 401


def test_every_act_has_its_role_and_all_else_is_read_only(client: TestClient) -> None:
    """The document names no path that changes something and is not in the table of roles."""
    acting = {path for method, path in routes(client) if method != "GET"}
    table = {re.sub("/nightly/", "/1/", path) for path in ACTS}
    assert acting == table | {f"{OF}/predict"}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_let_read_all_but_tokens(
    guarded: TestClient, client: TestClient, tokens: dict[str, str], role: str
) -> None:
    """Of every path that only reads: 403 for who has which tokens, and for nothing else."""
    reads = [path for method, path in routes(client) if method == "GET"]
    reads.remove("/v1/events")  # it does not end
    for path in reads:
        found = guarded.get(path, headers=bearer(tokens[role]))
        is_refused = path == "/v1/tokens" and role != "approver"
        assert (found.status_code == 403) == is_refused, path


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_what_it_may_and_no_more(
    guarded: TestClient, registry: SqlRegistry, tokens: dict[str, str], role: str
) -> None:
    """403 names the role that is needed, and nothing happens."""
    headers = bearer(tokens[role])
    assert guarded.get(f"{OF}/versions", headers=headers).status_code == 200
    for path, needed in ACTS.items():
        before = everything(registry.engine)
        found = guarded.post(path, json={"reason": "r", "kind": "fault"}, headers=headers)
        if ROLES.index(role) < ROLES.index(needed):
            assert (found.status_code, needed in found.json()["detail"]) == (403, True)
            assert everything(registry.engine) == before
        else:
            assert found.status_code != 403


def test_the_token_says_who_acted(
    guarded: TestClient, registry: SqlRegistry, tokens: dict[str, str]
) -> None:
    """Nobody acts in another one's name."""
    path, headers = f"{OF}/retrain", bearer(tokens["operator"])
    as_another = guarded.post(path, json={"reason": "r", "actor": "ada"}, headers=headers)
    assert as_another.status_code == 403
    assert guarded.post(path, json={"reason": "r"}, headers=headers).status_code == 200
    with registry.engine.connect() as conn:
        entry = conn.execute(select(t.ledger).order_by(t.ledger.c.id.desc())).first()
    assert (entry.kind, entry.actor) == ("request", "operator")


def test_the_token_says_who_found_the_ledger_changed(
    guarded: TestClient, registry: SqlRegistry, tokens: dict[str, str]
) -> None:
    """It only looked, but the ledger keeps what it found."""
    with registry.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE streams SET channels = '[]'")
    assert not guarded.get("/v1/ledger/verify", headers=bearer(tokens["reader"])).json()["holds"]
    with registry.engine.connect() as conn:
        entry = conn.execute(select(t.ledger).order_by(t.ledger.c.id.desc())).first()
    assert (entry.kind, entry.actor) == ("verify_failed", "reader")


def test_whoever_sits_here_says_who_acts(client: TestClient) -> None:
    """Without a token the request names a person; who acts by itself is none."""
    for actor in (None, " ", " ada", "a\x1b[2J", *RESERVED):
        body = {"reason": "r"} | ({} if actor is None else {"actor": actor})
        assert client.post(f"{OF}/retrain", json=body).status_code == 422


# Browsers that are led here ---------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example"])
def test_a_name_that_was_bound_anew_is_not_answered(client: TestClient, host: str) -> None:
    """DNS rebinding: the browser takes it for its own origin, and says its name."""
    for path in ("/v1/streams", "/metrics", "/healthz"):
        assert client.get(path, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8321", "localhost", "LOCALHOST:1", "[::1]:8321"])
def test_loopback_has_several_names(client: TestClient, host: str) -> None:
    """All of them lead here only."""
    assert client.get("/v1/streams", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=application/json"},
        {"Content-Type": ""},
        {"Content-Type": "application/json", "Origin": "https://evil.example"},
        {"Content-Type": "application/json", "Origin": "null"},
        {"Content-Type": "application/json", "Origin": "http://127.0.0.1:9"},
        {"Content-Type": "application/json", "Origin": "https://127.0.0.1:8321"},
        {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"},
        {"Content-Type": "application/json", "Sec-Fetch-Site": "same-site"},
    ],
)
def test_no_other_page_makes_a_browser_act(
    client: TestClient, registry: SqlRegistry, headers: dict[str, str]
) -> None:
    """What a form can send is refused, and so is what says that it comes from elsewhere."""
    before = everything(registry.engine)
    body = b'{"reason": "r", "actor": "ada"}'
    found = client.post(f"{OF}/rollback", content=body, headers=headers)
    assert found.status_code in (403, 415)
    assert everything(registry.engine) == before


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_no_other_page_makes_a_browser_ask(client: TestClient, site: str) -> None:
    """It may not read the answer, but what is asked has a price: a ledger that is verified."""
    for path in ("/v1/ledger/verify", "/v1/events", "/metrics"):
        asked = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        assert client.get(path, headers=asked).status_code == 403
    followed = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert client.get("/v1/streams", headers=followed).status_code == 200
    typed = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/v1/streams", headers=typed).status_code == 200


def test_our_own_page_acts(client: TestClient) -> None:
    """A browser sends these with it."""
    headers = {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}
    assert client.post(f"{OF}/retrain", json=ACT, headers=headers).status_code == 200


def test_no_origin_is_let_read(client: TestClient) -> None:
    """No CORS header is ever sent, whoever asks."""
    for found in (
        client.get("/v1/streams", headers={"Origin": "https://evil.example"}),
        client.options(
            "/v1/streams",
            headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
        ),
    ):
        assert not [name for name in found.headers if name.startswith("access-control")]


# Proxies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Host"]
)
def test_behind_a_proxy_loopback_is_no_password(client: TestClient, name: str) -> None:
    """To us everybody comes from loopback then."""
    found = client.get("/v1/streams", headers={name: "203.0.113.9"})
    assert found.status_code == 403
    assert "serve.tokens" in found.json()["detail"]


def test_no_header_says_where_somebody_is(
    guarded: TestClient, registry: SqlRegistry, tokens: dict[str, str]
) -> None:
    """Neither for tokens nor for the address that failures are counted by."""
    lies = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "::1"}
    assert guarded.get("/v1/streams", headers=lies).status_code == 401
    guarded.get("/v1/streams", headers=lies | bearer("tidemark_1_x"))
    found = failed(guarded, registry)
    assert found == [{"failures": 1, "addresses": {"testclient": 1}, "of": 1}]


def failed(client: TestClient, registry: SqlRegistry) -> list[dict[str, Any]]:
    """What the ledger has of failures, once the application has ended."""
    client.__exit__(None, None, None)
    with connected(registry) as after:
        page = after.get("/v1/ledger", params={"kind": "login_failed"}).json()
    client.__enter__()
    return [entry["entry"] for entry in page["items"]]


# Failures and rates -----------------------------------------------------------------------------


def test_many_failures_are_few_entries() -> None:
    """The first is told at once, then one entry in ten seconds, whoever and how many they were."""
    now, told = [0.0], []
    failures = Failures(told.append, clock=lambda: now[0])
    for n in range(1000):
        failures.count(f"10.0.0.{n % 20}")
        failures.tell()
    assert told == [{"failures": 1, "addresses": {"10.0.0.0": 1}, "of": 1}]
    now[0] = 10.0
    failures.tell()
    assert (told[1]["failures"], len(told[1]["addresses"]), told[1]["of"]) == (999, 10, 20)
    failures.tell(now=True)
    assert len(told) == 2


def test_failures_from_everywhere_do_not_fill_the_memory() -> None:
    """Beyond so many addresses all are one."""
    told: list[Any] = []
    failures = Failures(told.append)
    for n in range(KNOWN + 50):
        failures.count(str(n))
    failures.tell()
    assert (told[0]["failures"], told[0]["of"]) == (KNOWN + 50, KNOWN + 1)
    assert told[0]["addresses"]["others"] == 50


def test_a_rate_is_of_one_address_and_comes_back() -> None:
    """Two a second: twenty at once, then one each half second; another address is free."""
    now = [0.0]
    rates = Rates(2.0, clock=lambda: now[0])
    assert [rates.wait("a") for _ in range(20)] == [0.0] * 20
    assert rates.wait("a") == 0.5
    assert rates.wait("b") == 0.0
    now[0] = 0.5
    assert (rates.wait("a"), rates.wait("a")) == (0.0, 0.5)


def test_too_many_requests_are_told_to_wait(registry: SqlRegistry) -> None:
    """At 0.2 a second the third within ten seconds is one too many; it is told when."""
    with connected(registry, requests_per_second=0.2) as client:
        found = [client.get("/healthz") for _ in range(3)]
    assert [each.status_code for each in found] == [200, 200, 429]
    assert 1 <= int(found[2].headers["retry-after"]) <= 5
    assert found[2].headers["content-type"] == "application/problem+json"


# Bodies and injections --------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_however_it_comes(
    registry: SqlRegistry, stream: Stream
) -> None:
    """By its length, or while it is read when it told none, and nothing happens."""
    before = everything(registry.engine)
    large = b'{"reason": "' + b"r" * 1000 + b'", "actor": "ada"}'
    headers = {"Content-Type": "application/json"}
    with connected(registry, max_body_bytes=1000) as client:
        told = client.post(f"{OF}/retrain", content=large, headers=headers)
        pieces = (large[n : n + 100] for n in range(0, len(large), 100))
        untold = client.post(f"{OF}/retrain", content=pieces, headers=headers)
        for length in ("-1", "1e3", "99999999999999999999"):
            lie = headers | {"Content-Length": length}
            assert client.post(f"{OF}/retrain", content=b"{}", headers=lie).status_code == 413
    assert (told.status_code, untold.status_code) == (413, 413)
    assert everything(registry.engine) == before


@pytest.mark.parametrize(
    "name",
    [
        "readings' OR '1'='1",
        "readings; DROP TABLE streams",
        'readings"--',
        "%00",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "%ff%fe",
        "a" * 5000,
    ],
)
def test_a_name_is_a_name_and_no_sql_or_path(
    client: TestClient, registry: SqlRegistry, name: str
) -> None:
    """Not there, or not a name; the database is what it was."""
    before = everything(registry.engine)
    for path in (f"/v1/streams/{name}", f"/v1/streams/{name}/versions", f"/{name}"):
        assert client.get(path).status_code in (404, 422)
    for query in ({"status": name}, {"cursor": name}, {"limit": name}):
        found = client.get(f"{OF}/versions", params=query)
        assert found.status_code in (200, 422)
        assert found.json().get("items", []) == []
    assert everything(registry.engine) == before


def test_a_fault_of_ours_tells_nobody_where(
    registry: SqlRegistry, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No trace, no path, no secret; the log has it."""

    def fails(*_: object) -> None:
        raise RuntimeError("s3cret in /srv/file.py")

    monkeypatch.setattr(SqlRegistry, "stream", fails)
    with connected(registry) as client:
        found = client.get("/v1/streams/readings")
    assert found.status_code == 500
    assert found.json()["detail"] == "a fault of ours; the log has more"
    assert "s3cret" not in found.text
    assert found.headers["content-security-policy"] == ALWAYS["Content-Security-Policy"]


def test_every_answer_has_the_headers(client: TestClient, guarded: TestClient) -> None:
    """Right ones and wrong ones; no script is inline, and no framing page is let."""
    for found in (
        client.get("/healthz"),
        client.get("/nothing"),
        client.get(f"{OF}/versions/3/weights"),
        guarded.get("/v1/streams"),
    ):
        assert {name: found.headers.get(name) for name in ALWAYS} == ALWAYS
        assert "unsafe" not in found.headers["content-security-policy"]
        assert "server" not in found.headers


# Starts that are refused ------------------------------------------------------------------------


def test_any_address_but_loopback_needs_tokens() -> None:
    """And says so in one line; a token that was revoked is none."""
    token = Token(name="a", role="reader", actor="root", created=1, revoked=None)
    revoked = Token(name="b", role="reader", actor="root", created=1, revoked=2)
    for host in ("0.0.0.0", "::", "192.0.2.1", "tidemark.example"):  # noqa: S104
        for found in ([], [revoked]):
            with pytest.raises(SettingsError, match=r"^serve.host: .* needs tokens.*token add"):
                check(Serve(host=host), found)
        check(Serve(host=host), [revoked, token])
    for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"):
        check(Serve(host=host), [])
    with pytest.raises(SettingsError, match="needs tokens"):
        check(Serve(tokens="always"), [])


def test_loopback_is_what_nobody_else_reaches() -> None:
    """By number or its one name; a name that only begins so is another's."""
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    others = ("0.0.0.0", "::", "10.0.0.1", "localhost.evil", "127.0.0.1.evil", "")  # noqa: S104
    assert not any(map(is_loopback, others))
    assert not needs_tokens(Serve())


def test_a_certificate_needs_its_key() -> None:
    """One without the other is a slip, and would mean no TLS."""
    with pytest.raises(SettingsError, match=r"serve.tls_cert, serve.tls_key: give both"):
        check(Serve(tls_cert="c.pem"), [])
