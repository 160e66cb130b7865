"""What an attacker may send in place of an access token: every one is refused alike, over real HTTP, and none is a 5xx.

The ring has an HMAC key and two Ed25519 keys. Where it makes an attack stronger, the forgery is signed with a real key
of ours: then only the check that is meant stands between it and the door.
"""

import base64
import json
from time import time
from uuid import uuid4

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from boostedcalls.common.errors import ServiceError
from boostedcalls.gateway.auth import read_access
from boostedcalls.gateway.jws import Ed25519Key, HmacKey
from boostedcalls.gateway.keyring import Ring

PATH = "/api/calls/pending-count/"
SECRET = bytes(range(100, 132))
HMAC = HmacKey("hmac-1", SECRET)
FIRST, SECOND = (Ed25519Key(f"ed-{number}", bytes(range(number, number + 32))) for number in (1, 2))
STRANGER = Ed25519Key("ed-1", bytes(range(50, 82)))
KEYS = (HMAC, FIRST, SECOND)
REQUIRED = ("iss", "aud", "typ", "sub", "sid", "jti", "iat", "exp")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = [{"kty": "oct", "alg": "HS256", "kid": "hmac-1", "k": b64(SECRET)}]
    for number, key in enumerate((FIRST, SECOND), 1):
        private = b64(bytes(range(number, number + 32)))
        keys.append(
            {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": key.kid, "x": b64(key.public), "d": private}
        )
    path.write_text(json.dumps({"keys": keys, "sign": "ed-1"}))
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(running, dsn, nats_server, key_file):
    async with running(dsn, nats_server.url, jwt_secret=None, jwt_keys_file=key_file) as found:
        yield found


def claims(**changes):
    now = int(time())
    found = {"iss": "boostedcalls", "aud": "boostedcalls", "typ": "access", "sub": str(uuid4()), "sid": str(uuid4())}
    return {**found, "jti": str(uuid4()), "iat": now - 5, "exp": now + 300, **changes}


def header(key=FIRST, **changes):
    return {"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt", **changes}


def raw(value):
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


def forged(head, body, sign=FIRST.sign):
    """A compact JWS of any header and payload, as JSON or bytes; `sign` makes its signature."""
    text = f"{b64(raw(head))}.{b64(raw(body))}"
    return f"{text}.{b64(sign(text.encode()))}"


def mac(secret):
    return HmacKey("", secret).sign


def signed(key=FIRST, **changes):
    return forged(header(key), claims(**changes), key.sign)


async def refused(gateway, tokens):
    """Send each in a header of its own and see that it is refused; how many there were."""
    tokens = list(tokens)
    for token in tokens:
        answer = await gateway.client.get(PATH, headers={"Authorization": f"Bearer {token}".rstrip(" ").encode()})
        gateway.is_problem(answer, 401, "token_invalid")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert tokens
    return len(tokens)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.kid)
async def test_token_of_each_key_is_taken_which_shows_that_forgeries_are_refused_for_what_is_changed(gateway, key):
    for token in (signed(key), signed(key, nbf=int(time())), signed(key, more={"unknown": [1]})):
        answer = await gateway.client.get(PATH, headers={"Authorization": f"Bearer {token}"})
        gateway.is_problem(answer, 503, "unavailable")


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.kid)
async def test_what_we_sign_is_good_for_pyjwt_and_what_pyjwt_signs_for_us(key):
    ring = Ring(key)
    token = ring.issue(uuid4(), uuid4(), int(time()), 60)
    public, private = (SECRET, SECRET) if key is HMAC else (key._public, key._private)
    read = jwt.decode(token, public, algorithms=[key.algorithm], audience="boostedcalls", issuer="boostedcalls")
    assert read["sub"] == str(read_access(ring, token).user_id)
    headers = {"kid": key.kid, "typ": "at+jwt"}
    theirs = jwt.encode(claims(sub=read["sub"]), private, key.algorithm, headers=headers, sort_headers=True)
    assert str(read_access(ring, theirs).user_id) == read["sub"]


def test_signatures_are_those_of_the_standards():
    # RFC 8037, appendix A, and RFC 7515, appendix A.1.
    d = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    key = Ed25519Key("", d)
    assert b64(key.public) == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    text = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    assert b64(key.sign(text)) == signature
    k = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=="
    text = (
        b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
        b"eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    )
    signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert b64(HmacKey("", base64.urlsafe_b64decode(k)).sign(text)) == signature


async def test_alg_none_in_any_spelling_is_refused(gateway, attacks):
    spellings = ["none", "None", "NONE", "nOnE", " none", "none ", "none\x00", "", None, [], ["none"], {}, False, 0]
    tokens = [forged(header(alg=name), claims(), sign) for name in spellings for sign in (lambda _: b"", FIRST.sign)]
    tokens += [forged({"alg": name}, claims(), lambda _: b"") for name in spellings]
    tokens.append(forged({"kid": "ed-1", "typ": "at+jwt"}, claims()))
    attacks("JWT: alg none", await refused(gateway, tokens))


async def test_other_algorithms_and_their_spellings_are_refused(gateway, attacks):
    names = ["HS384", "HS512", "hs256", "HS256 ", "EDDSA", "eddsa", "Ed25519", "ES256", "RS256", "PS256", "dir", "HS1"]
    tokens = [forged(header(key, alg=name), claims(), key.sign) for name in names for key in (HMAC, FIRST)]
    attacks("JWT: other algorithm", await refused(gateway, tokens))


def encodings(public):
    """An Ed25519 public key in every form in which somebody may have it."""
    found = [public, public.hex().encode(), base64.b64encode(public), b64(public).encode()]
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))).public_key()
    assert key.public_bytes_raw() == public
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    found += [pem, pem.strip(), pem.replace(b"\n", b"\r\n"), b"".join(pem.splitlines()[1:-1])]
    found.append(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    found.append(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(public)}
    found += [json.dumps(jwk).encode(), json.dumps(jwk, separators=(",", ":")).encode(), b"", b"\x00" * 32]
    return found


async def test_hmac_with_a_public_key_as_its_secret_is_refused(gateway, attacks):
    heads = [header(HMAC), header(HMAC, kid="ed-1"), header(HMAC, kid=None), {"alg": "HS256", "typ": "JWT"}, header()]
    tokens = [forged(head, claims(), mac(secret)) for secret in encodings(FIRST.public) for head in heads]
    attacks("JWT: key confusion", await refused(gateway, tokens))


async def test_key_that_does_not_belong_to_the_kid_is_refused(gateway, attacks):
    tokens = [forged(header(named), claims(), key.sign) for named in KEYS for key in KEYS if named is not key]
    tokens += [forged(header(key, kid=STRANGER.kid), claims(), STRANGER.sign) for key in KEYS]
    tokens += [forged(header(HMAC), claims(), mac(secret)) for secret in (b"", b"secret", SECRET[:-1], SECRET[::-1])]
    attacks("JWT: wrong key", await refused(gateway, tokens))


KIDS = [
    *("../../../../dev/null", "/dev/null", "/proc/sys/kernel/randomize_va_space", "file:///etc/passwd", "C:\\con"),
    *("' OR '1'='1", "ed-1' UNION SELECT 'key' --", "ed-1; DROP TABLE auth.users", "1 OR 1=1", "%27", "${7*7}"),
    *("|id", "`id`", "$(id)", "ed-1\nX: y", "https://attacker.example/key", "//attacker.example", "ldap://a/b"),
    *("ed-1\x00", "\x00", "ed-1 ", " ed-1", "ED-1", "ed-1/", "ed-\uff11", "é", "", "ed-3", "*", "ed-?", "None", "0"),
    *("k" * 1000, ["ed-1"], {"kid": "ed-1"}, 1, 0, True, None, 1.5, [], {}),
]


async def test_kid_that_is_not_in_our_table_is_refused(gateway, attacks):
    tokens = [forged(header(kid=kid), claims(), sign) for kid in KIDS for sign in (FIRST.sign, mac(b""))]
    tokens.append(forged({"alg": "EdDSA", "typ": "at+jwt"}, claims()))
    attacks("JWT: kid injection", await refused(gateway, tokens))


async def test_key_that_a_token_brings_along_is_refused(gateway, attacks):
    jwk = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "ed-1", "x": b64(STRANGER.public)}
    embedded = [{"jwk": jwk}, {"jwk": None}, {"x5c": [b64(STRANGER.public)]}, {"x5t": "a"}, {"x5t#S256": "a"}]
    embedded += [{name: "https://attacker.example/keys"} for name in ("jku", "x5u")]
    embedded += [{name: "http://127.0.0.1:1/"} for name in ("jku", "x5u")]
    tokens = [forged(header(**more), claims(), key.sign) for more in embedded for key in (STRANGER, FIRST)]
    attacks("JWT: embedded key", await refused(gateway, tokens))


async def test_critical_and_other_extensions_are_refused(gateway, attacks):
    more = [{"crit": crit} for crit in ([], ["b64"], ["exp"], ["x"], "b64", None, [1], {})]
    more += [{"crit": ["b64"], "b64": False}, {"b64": False}, {"b64": True}, {"zip": "DEF"}, {"cty": "JWT"}]
    more += [{"enc": "A256GCM"}, {"http://example.com/x": 1}, {"exp": int(time()) + 60}, {"sub": str(uuid4())}]
    tokens = [forged(header(**each), claims()) for each in more]
    # RFC 7797: the payload as it is, with a signature over it as it is.
    head = b64(raw(header(crit=["b64"], b64=False)))
    body = b64(raw(claims()))
    tokens += [f"{head}.{body}.{b64(FIRST.sign(f'{head}.{text}'.encode()))}" for text in (body, json.dumps(claims()))]
    tokens.append(f"{head}..{b64(FIRST.sign(f'{head}.'.encode()))}")
    attacks("JWT: critical header", await refused(gateway, tokens))


async def test_encrypted_and_nested_tokens_are_refused(gateway, attacks):
    good = signed()
    heads = [{"alg": "dir", "enc": "A256GCM"}, {"alg": "A256KW", "enc": "A256GCM", "kid": "hmac-1"}, header()]
    tokens = [f"{b64(raw(head))}.{key}.{b64(b'i' * 12)}.{b64(raw(claims()))}.{b64(b't' * 16)}"
              for head in heads for key in ("", b64(b"k" * 32))]  # fmt: skip
    tokens += [f"{good}.{good}", f"{good}..", f"{good}."]
    for inner in (good.encode(), raw(good), raw([claims()]), raw({"jwt": good})):
        tokens += [forged(header(), inner), forged(header(cty="JWT"), inner)]
    tokens.append(forged({**header(), "payload": good}, claims()))
    attacks("JWT: encrypted or nested", await refused(gateway, tokens))


async def test_token_outside_of_its_time_is_refused(gateway, attacks):
    now = int(time())
    wrong = [{"exp": now - 6}, {"iat": now - 900, "exp": now - 600}, {"exp": 0}, {"exp": -1}, {"iat": 0}]
    wrong += [{"exp": now + 10**6}, {"exp": 2**63}, {"exp": 10**30}, {"iat": now + 60, "exp": now + 300}]
    wrong += [{"nbf": now + 60}, {"nbf": 2**63}, {"iat": now, "exp": now - 1}, {"iat": now - 5, "exp": now - 5}]
    tokens = [signed(key, **each) for each in wrong for key in (HMAC, FIRST)]
    attacks("JWT: outside of its time", await refused(gateway, tokens))


async def test_wrong_issuer_audience_or_kind_is_refused(gateway, attacks):
    values = ["", "somebody", "boostedcalls ", "Boostedcalls", "boostedcalls/", "https://boostedcalls", None]
    values += [["boostedcalls"], ["boostedcalls", "x"], ["x"], [], {"boostedcalls": 1}, "*", True, 1]
    tokens = [signed(**{name: value}) for name in ("aud", "iss") for value in values]
    tokens += [signed(typ=kind) for kind in ("refresh", "id", "Access", "access ", "JWT", None, ["access"], 1)]
    attacks("JWT: wrong audience, issuer or kind", await refused(gateway, tokens))


async def test_missing_claim_is_refused(gateway, attacks):
    tokens = [forged(header(), {k: v for k, v in claims().items() if k != name}) for name in REQUIRED]
    tokens += [forged(header(), {name: claims()[name]}) for name in REQUIRED]
    tokens += [
        forged(header(), body) for body in (b"{}", b"", b"null", b"[]", b'""', b"1", b"\xff", b"{", b"\xef\xbb\xbf{}")
    ]
    attacks("JWT: missing claims", await refused(gateway, tokens))


async def test_claim_of_another_type_is_refused(gateway, attacks):
    values = [None, True, False, 0, -1, 1.5, "", "x", [], {}, "\x00", "é", 10**400, -(10**20), "1e9", "0x10"]
    tokens = []
    for name in REQUIRED:
        right = claims()[name]
        tokens += [signed(**{name: value}) for value in [*values, [right], {"": right}, f" {right}"]]
        tokens.append(signed(**{name: float(right) if isinstance(right, int) else f"{right} "}))
        tokens.append(signed(**{name: str(right) if isinstance(right, int) else right.upper()}))
    tokens += [signed(nbf=value) for value in [None, True, 1.5, "", "0", [], {}]]
    tokens += [signed(sub=f"{{{uuid4()}}}"), signed(sub=f"urn:uuid:{uuid4()}"), signed(sub=uuid4().hex)]
    for constant in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"01", b"+1", b"1_000", b"9" * 1500):
        tokens.append(forged(header(), raw(claims(exp="@")).replace(b'"@"', constant)))
    attacks("JWT: claim of another type", await refused(gateway, tokens))


async def test_claim_or_header_member_that_is_there_twice_is_refused(gateway, attacks):
    tokens = []
    for name in (*REQUIRED, "unknown"):
        found = {**claims(), "unknown": 1}
        member = raw({name: found[name]})[1:-1]
        rest = raw({key: value for key, value in found.items() if key != name})
        escaped = member.replace(b'"%c' % ord(name[0]), b'"\\u%04x' % ord(name[0]), 1)
        for first, last in ((member, member), (member, escaped), (escaped, member), (raw({name: None})[1:-1], member)):
            tokens.append(forged(header(), b"{%s,%s,%s}" % (first, rest[1:-1], last)))
    tokens.append(forged(header(), raw(claims(more="@")).replace(b'"@"', b'{"a":1,"a":1}')))
    for member in (
        b'"alg":"EdDSA"',
        b'"alg":"none"',
        b'"alg":"HS256"',
        b'"kid":"ed-1"',
        b'"kid":"x"',
        b'"typ":"at+jwt"',
    ):
        head = raw(header())
        tokens += [forged(b"{%s,%s" % (member, head[1:]), claims()), forged(b"%s,%s}" % (head[:-1], member), claims())]
    attacks("JWT: duplicate claims", await refused(gateway, tokens))


async def test_other_spelling_of_our_header_is_refused(gateway, attacks):
    right = header()
    heads = [
        json.dumps(right).encode(),
        raw(right) + b"\n",
        b" " + raw(right),
        b"\xef\xbb\xbf" + raw(right),
        raw([right]),
    ]
    heads += [
        raw(dict(reversed(right.items()))),
        raw(right).replace(b"kid", b"\\u006bid"),
        raw(right).replace(b":", b" :"),
    ]
    heads += [raw(header(typ=kind)) for kind in ("JWT", "jwt", "AT+JWT", "application/at+jwt", "refresh", None, [])]
    heads += [raw({"alg": "EdDSA", "kid": "ed-1"}), raw({**right, "a": 1}), b"", b"{}", b"null", b"[" * 300, b"{" * 300]
    heads += [raw(right).decode().encode("utf-16"), b"\xff", b"\x00", raw(right)[:-1], raw(right) * 2]
    attacks("JWT: other header", await refused(gateway, [forged(head, claims()) for head in heads]))


async def test_what_is_no_three_parts_is_refused(gateway, attacks):
    head, body, signature = signed().split(".")
    shapes = [
        "",
        ".",
        "..",
        "...",
        "....",
        "token",
        f"{head}",
        f"{head}.{body}",
        f"{head}.{body}.",
        f"{head}..{signature}",
    ]
    shapes += [
        f".{body}.{signature}",
        f"{body}.{signature}",
        f".{body}.",
        f"{head}.{signature}",
        f"{head}{body}{signature}",
    ]
    shapes += [f"{head}.{body}.{signature}.", f"{head}.{body}.{signature}.x", f".{head}.{body}.{signature}"]
    shapes += [f"{head}:{body}:{signature}", f"{head} {body} {signature}", f"{head}. {body}.{signature}"]
    shapes += [
        f"{signature}.{body}.{head}",
        f"{head}.{head}.{signature}",
        f"{head}.{body}.{body}",
        f'"{head}.{body}.{signature}"',
    ]
    shapes += [json.dumps({"protected": head, "payload": body, "signature": signature})]
    shapes += [json.dumps({"payload": body, "signatures": [{"protected": head, "signature": signature}]})]
    shapes += ["a" * 2_049, "a" * 20_000, f"{head}.{'A' * 20_000}.{signature}", "." * 5_000, f"{head}." + "e" * 3_000]
    shapes += ["null", "undefined", "[object Object]", "Bearer", f"Bearer {head}.{body}.{signature}", "é", "💥", "\xa0"]
    attacks("JWT: malformed", await refused(gateway, shapes))


async def test_characters_around_and_within_a_good_token_are_refused(gateway, attacks):
    good = signed()
    marks = [
        "=",
        "==",
        "+",
        "/",
        "%20",
        ",",
        ";",
        "\\",
        "'",
        '"',
        "\xa0",
        "\x85",
        "\u200b",
        "\ufeff",
        "é",
        "~",
        "\uff0e",
    ]
    tokens = [f"{good}{mark}" for mark in marks] + [f"{mark}{good}" for mark in marks]
    tokens += [good.replace(".", f"{mark}.", 1) for mark in marks] + [
        good.replace(".", f".{mark}", 1) for mark in marks
    ]
    tokens += [good.replace(".", mark) for mark in marks] + [good.swapcase(), good.lower(), good[::-1], good + good]
    count = await refused(gateway, tokens)
    # What no HTTP header can carry.
    ring = gateway.deps.keys.ring
    for mark in ("\n", "\r\n", "\t", "\x00", "\x0b", "\x1c", "\u2028", "\ud800", " "):
        for token in (good + mark, mark + good, good.replace(".", mark + "."), good.replace(".", "." + mark)):
            with pytest.raises(ServiceError, match="token_invalid"):
                read_access(ring, token)
            count += 1
    attacks("JWT: stray characters", count)


@pytest.mark.parametrize("key", [HMAC, FIRST], ids=lambda key: key.algorithm)
async def test_change_of_any_character_is_refused(gateway, attacks, key):
    good = signed(key)
    ring = gateway.deps.keys.ring
    read_access(ring, good)
    # The lowest bit of each: those of a part's last character that mean nothing are among them.
    flipped = [good[:i] + ALPHABET[ALPHABET.find(old) ^ 1] + good[i + 1 :] for i, old in enumerate(good)]
    count = await refused(gateway, flipped)
    for i, old in enumerate(good):
        for new in ALPHABET.replace(old, "") + ".=":
            if new != old:
                with pytest.raises(ServiceError, match="token_invalid"):
                    read_access(ring, good[:i] + new + good[i + 1 :])
                count += 1
    attacks("JWT: bit flips", count)


@pytest.mark.parametrize("key", [HMAC, FIRST], ids=lambda key: key.algorithm)
async def test_shortened_or_prolonged_signature_is_refused(gateway, attacks, key):
    good = signed(key)
    text, _, signature = good.rpartition(".")
    whole = base64.urlsafe_b64decode(signature + "==")
    tokens = [f"{text}.{b64(whole[:size])}" for size in range(len(whole))]
    tokens += [f"{text}.{b64(whole + more)}" for more in (b"\0", b"x", whole)]
    tokens += [f"{text}.{b64(b'\0' * len(whole))}", f"{text}.{whole.hex()}", f"{text}.{signature}{signature}"]
    if key is FIRST:
        # S and S + L are the same number to a verifier that does not look (RFC 8032, 5.1.7).
        order = 2**252 + 27742317777372353535851937790883648493
        number = int.from_bytes(whole[32:], "little") + order
        tokens.append(f"{text}.{b64(whole[:32] + number.to_bytes(32, 'little'))}")
    count = await refused(gateway, tokens)
    ring = gateway.deps.keys.ring
    for size in range(len(good)):
        with pytest.raises(ServiceError, match="token_invalid"):
            read_access(ring, good[:size])
    attacks("JWT: truncated or padded", count + len(good))


async def test_other_tokens_of_ours_are_no_access_token(gateway, attacks):
    user = await gateway.add_user()
    login = {"username": user.email, "password": gateway.password}
    tokens = (await gateway.client.post("/api/token/", json=login)).json()
    used = {"Authorization": f"Bearer {tokens['access']}"}
    gateway.is_problem(await gateway.client.get(PATH, headers=used), 503, "unavailable")
    count = await refused(gateway, [tokens["refresh"], gateway.webhook_secret, str(user.id)])
    await gateway.client.post("/api/auth/logout", json={"refresh": tokens["refresh"]})
    attacks("JWT: other kind of token", count)
    attacks("JWT: session that has ended", await refused(gateway, [tokens["access"]]))


async def test_refused_tokens_are_not_remembered(gateway):
    ring = gateway.deps.keys.ring
    before = ring.read.cache_info()
    for token in (signed(exp=1), signed(HMAC, aud="x"), signed()[:-2], "a.b.c"):
        with pytest.raises(ServiceError):
            read_access(ring, token)
    assert ring.read.cache_info().currsize == before.currsize
    assert before.maxsize is not None
