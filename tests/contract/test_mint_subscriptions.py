"""Subscriptions (NUT-17) against the real mint, and against servers that do as they like. None of them is ever believed."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from melt.ecash import y_of
from melt.mint import announced
from melt.mint.subscriptions import _End, websocket_url
from melt.model import HintKind, HintLink
from tests.support.engine import y
from tests.support.hint_server import HintServer, InfoMint, Listening, SkippingClock, until
from tests.support.mint import MintProcess, TestWallet
from tests.support.mint_client import as_proof, http_mint

A, B, C = (str(y(name)) for name in "abc")


@pytest.fixture
async def listening(mint):
    async with http_mint(mint.url) as client:
        yield Listening(client)


def connected(listening):
    return listening.subscriber.status().link is HintLink.CONNECTED


# --- the real mint ---


async def test_a_spent_proof_is_told_and_the_replay_of_present_states_is_not(mint, listening):
    wallet = TestWallet(mint.url)
    proofs = await wallet.mint(60)
    ys = [y_of(proof["secret"]) for proof in proofs]
    async with listening.running(*ys):
        await until(lambda: listening.subscriber.status().watched == 4)
        await wallet.spend(proofs[:1])
        await until(lambda: (ys[0], "SPENT") in listening.told)
        await wallet.spend(proofs[1:2])
        await until(lambda: (ys[1], "SPENT") in listening.told)
        # What comes in between is the PENDING of the swap.
        assert {key for key, _ in listening.told} == set(ys[:2])
        assert not [state for _, state in listening.told if state == "UNSPENT"]
        assert not listening.telemetry.dropped


async def test_what_was_spent_before_it_was_watched_is_told_once(mint, listening):
    wallet = TestWallet(mint.url)
    proofs = await wallet.mint(12)
    ys = [y_of(proof["secret"]) for proof in proofs]
    await wallet.spend(proofs[:1])
    async with listening.running(*ys):
        await until(lambda: (ys[0], "SPENT") in listening.told)
        assert listening.told == [(ys[0], "SPENT")]


async def test_a_melt_is_told_by_its_quote_once_somebody_asks_for_it(mint, listening):
    wallet = TestWallet(mint.url)
    invoice = await mint.invoice(100, pay="PENDING", status="PENDING")
    quote = await listening.mint.melt_quote(invoice.invoice, "sat")
    async with listening.running(quotes=(str(quote.id),)):
        await until(lambda: connected(listening))
        proofs = [as_proof(proof) for proof in await wallet.mint(128)]
        await listening.mint.melt(quote.id, proofs, [], timeout_s=20)
        await until(lambda: (quote.id, "PENDING") in listening.told)
        await mint.resolve(invoice.payment_hash, "SETTLED")
        await listening.mint.melt_quote_state(quote.id)
        await until(lambda: (quote.id, "PAID") in listening.told)
        assert not listening.telemetry.dropped


async def test_hints_come_again_from_a_mint_that_was_killed(tmp_path):
    with MintProcess(tmp_path) as mint:
        wallet = TestWallet(mint.url)
        proofs = await wallet.mint(12)
        ys = [y_of(proof["secret"]) for proof in proofs]
        async with http_mint(mint.url) as client, Listening(client).running(*ys) as listening:
            await until(lambda: connected(listening))
            await mint.kill()
            await until(lambda: not connected(listening))
            await mint.start()
            await until(lambda: connected(listening))
            await wallet.spend(proofs[:1])
            await until(lambda: (ys[0], "SPENT") in listening.told)
            assert listening.telemetry.reconnected >= 1
            assert listening.telemetry.connected[-1] is True


async def test_the_mint_takes_the_keepalive_and_goes_on(mint):
    wallet = TestWallet(mint.url)
    proofs = await wallet.mint(4)
    async with http_mint(mint.url) as client:
        listening = Listening(client, limits={"keepalive_s": 0.05})
        async with listening.running(y_of(proofs[0]["secret"])):
            await until(lambda: connected(listening))
            await asyncio.sleep(0.3)
            await wallet.spend(proofs)
            await until(lambda: "SPENT" in [state for _, state in listening.told])
            assert listening.telemetry.reconnected == 0
            assert not listening.telemetry.dropped


async def test_a_message_is_sent_in_time_to_keep_the_connection_and_its_refusal_means_nothing():
    server = HintServer(lambda connection: connection.rest())
    async with server.running():
        listening = Listening(InfoMint(server.url), limits={"keepalive_s": 0.05})
        async with listening.running(A):
            await until(lambda: server.connections and len(server.connections[0].requests) >= 4)
            assert listening.subscriber.status().watched == 1
    (connection,) = server.connections
    assert [request["method"] for request in connection.requests[:4]] == ["subscribe", *["unsubscribe"] * 3]
    assert connection.subscribed[0]["subId"] not in {request["params"]["subId"] for request in connection.requests[1:]}
    assert not listening.telemetry.dropped


async def test_a_full_connection_is_replaced_before_the_mint_refuses(mint):
    wallet = TestWallet(mint.url)
    proofs = await wallet.mint(124)
    ys = [y_of(proof["secret"]) for proof in proofs]
    async with http_mint(mint.url) as client:
        listening = Listening(client, limits={"filters_max": 3})
        async with listening.running(*ys[:3]):
            await until(lambda: listening.subscriber.status().watched == 3)
            listening.subscriber.watch({HintKind.PROOF_STATE: ys[3:]})
            await until(lambda: listening.subscriber.status().watched == 2)
            assert listening.telemetry.reconnected == 1
            await wallet.spend(proofs[4:])
            await until(lambda: (ys[4], "SPENT") in listening.told)


# --- servers that do as they like ---


async def told_after(behaviour, *, ys=(A,), limits=None, then=None, **options):
    """What is told of a first connection that behaves badly and a second one that behaves well and pushes A."""

    async def good(connection):
        asked = await connection.accept()
        await connection.push(asked, A, "SPENT")
        await connection.rest()

    server = HintServer(behaviour, good)
    async with server.running(**options):
        listening = Listening(InfoMint(server.url), limits=limits)
        async with listening.running(*ys):
            await until(lambda: (A, "SPENT") in listening.told)
    return listening, server


async def test_garbage_is_counted_and_dropped():
    async def garbage(connection):
        asked = await connection.accept()
        for message in (
            "garbage",
            b"\x00\x01",
            "[]",
            "{}",
            "[" * 5000,
            json.dumps({"id": "x", "result": {}}),
            json.dumps({"method": "subscribe", "params": []}),
            json.dumps({"method": "subscribe", "params": {"subId": asked["subId"], "payload": 7}}),
            json.dumps(
                {"method": "subscribe", "params": {"subId": asked["subId"], "payload": {"Y": 7, "state": "SPENT"}}}
            ),
            json.dumps(
                {"method": "subscribe", "params": {"subId": asked["subId"], "payload": {"Y": A, "state": "GONE"}}}
            ),
        ):
            await connection.send(message)
        await connection.push(asked, A, "SPENT")
        await connection.rest()

    listening, server = await told_after(garbage)
    assert listening.telemetry.dropped == {"malformed": 10}
    assert len(server.connections) == 1  # it lives with it
    assert listening.told == [(A, "SPENT")]


async def test_a_hint_about_something_that_was_not_subscribed_is_dropped():
    async def talkative(connection):
        asked = await connection.accept()
        await connection.push(asked, B, "SPENT")
        await connection.push({**asked, "subId": "another"}, A, "SPENT")
        await connection.push(asked, A, "SPENT")
        await connection.rest()

    listening, _ = await told_after(talkative)
    assert listening.told == [(A, "SPENT")]
    assert listening.telemetry.dropped == {"unasked": 2}


async def test_the_same_state_again_is_no_change():
    async def repeating(connection):
        asked = await connection.accept()
        for _ in range(50):
            await connection.push(asked, B, "SPENT")
        await connection.push(asked, A, "SPENT")
        await connection.rest()

    listening, _ = await told_after(repeating, ys=(A, B))
    assert listening.told == [(B, "SPENT"), (A, "SPENT")]


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_message_that_is_too_large_ends_the_connection_and_another_is_made(compression):
    async def huge(connection):
        await connection.accept()
        await connection.send("x" * 100_000)
        await connection.rest()

    _, server = await told_after(huge, limits={"message_bytes_max": 50_000}, compression=compression)
    assert len(server.connections) == 2
    assert not server.connections[0].socket.extensions  # nothing is unpacked for it


async def test_a_server_that_closes_at_once_is_tried_again_with_growing_pauses():
    async def closing(connection):
        await connection.socket.close(1011)

    server = HintServer(closing)
    async with server.running():
        listening = Listening(InfoMint(server.url), limits={"backoff_s": 0.1, "backoff_s_max": 60})
        async with listening.running(A):
            await until(lambda: len(server.connections) == 3)
            pauses = [listening.subscriber._pause(_End.LOST, n, lived_s=0.0)[1] for n in range(12)]
            assert pauses[0] <= 0.1
            assert pauses[5] >= 1.6
            assert max(pauses) <= 60
        assert listening.telemetry.connected[-1] is False


async def test_a_server_that_never_answers_a_subscription_is_left():
    async def silent(connection):
        await connection.receive()
        await connection.socket.wait_closed()

    _, server = await told_after(silent)
    assert len(server.connections) == 2


async def test_a_server_that_refuses_a_subscription_is_left():
    async def refusing(connection):
        await connection.refuse(await connection.receive())
        await connection.rest()

    listening, server = await told_after(refusing)
    assert len(server.connections) == 2
    assert listening.told == [(A, "SPENT")]


async def test_a_socket_that_never_shakes_hands_is_left():
    opened = []

    async def mute(reader, writer):
        opened.append(writer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server:
        listening = Listening(InfoMint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        async with listening.running(A):
            await until(lambda: len(opened) == 2)
            assert not connected(listening)
        for writer in opened:
            writer.close()


async def test_a_flood_is_read_at_our_pace():
    messages = 2_000

    async def flood(connection):
        asked = await connection.accept()
        for n in range(messages):
            await connection.push(asked, B, ("SPENT", "PENDING")[n % 2])
        await connection.push(asked, A, "SPENT")
        await connection.rest()

    server = HintServer(flood)
    clock = SkippingClock()
    async with server.running():
        limits = {"units_burst": 100, "units_per_s": 100.0, "answer_timeout_s": 3600.0}
        listening = Listening(InfoMint(server.url), limits=limits, clock=clock)
        began = clock.monotonic()
        async with listening.running(A, B):
            await until(lambda: (A, "SPENT") in listening.told)
        assert clock.monotonic() - began >= (messages - 100) / 100
        assert len(listening.hints) == messages + 1


async def test_a_redirect_is_not_followed():
    asked = []

    async def elsewhere(path, headers):
        asked.append(path)
        return 302, [("Location", f"ws://127.0.0.1:{trap.port}/v1/ws")], b""

    trap = HintServer(lambda connection: connection.rest())
    server = HintServer(lambda connection: connection.rest())
    async with trap.running(), server.running(process_request=elsewhere):
        listening = Listening(InfoMint(server.url))
        async with listening.running(A):
            await until(lambda: len(asked) == 2)
            assert listening.subscriber.status().link is HintLink.UNSUPPORTED
        assert asked == ["/v1/ws", "/v1/ws"]
    assert trap.connections == []


@pytest.mark.parametrize(
    ("status", "link"),
    [(403, HintLink.UNSUPPORTED), (404, HintLink.UNSUPPORTED), (200, HintLink.UNSUPPORTED), (429, HintLink.CONNECTING), (503, HintLink.CONNECTING)],
)  # fmt: skip
async def test_a_mint_that_refuses_the_connection_is_left_alone_and_a_busy_one_is_not(status, link):
    asked = []

    async def no(path, headers):
        asked.append(path)
        return status, [], b"<html>"

    server = HintServer(lambda connection: connection.rest())
    async with server.running(process_request=no):
        listening = Listening(InfoMint(server.url))
        async with listening.running(A):
            await until(lambda: asked and listening.subscriber._talk is None)
            await until(lambda: listening.subscriber.status().link is link)
            await until(lambda: len(asked) == 2)
            assert not connected(listening)


async def test_a_mint_that_does_not_offer_it_is_not_even_connected_to_and_asked_again_later():
    server = HintServer(lambda connection: connection.rest())
    async with server.running():
        mint = InfoMint(server.url, offers=frozenset({"bolt11_mint_quote"}))
        listening = Listening(mint)
        async with listening.running(A):
            await until(lambda: listening.subscriber.status().link is HintLink.UNSUPPORTED)
            assert server.connections == []
            mint.offers = frozenset({"proof_state"})
            await until(lambda: connected(listening))
        # A quote is not asked about where only proofs may be.
        assert [asked["kind"] for asked in server.connections[0].subscribed] == ["proof_state"]


async def test_a_mint_that_can_not_be_asked_what_it_offers_is_tried_again():
    server = HintServer(lambda connection: connection.rest())
    async with server.running():
        mint = InfoMint(server.url)
        mint.reachable = False
        listening = Listening(mint)
        async with listening.running(A):
            await until(lambda: mint.asked >= 3)
            assert server.connections == []
            mint.reachable = True
            await until(lambda: connected(listening))


async def test_the_environments_proxy_is_not_used(monkeypatch):
    for name in ("http_proxy", "https_proxy", "ws_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server = HintServer(lambda connection: connection.rest())
    async with server.running():
        listening = Listening(InfoMint(server.url))
        async with listening.running(A):
            await until(lambda: connected(listening))


async def test_nothing_is_connected_while_there_is_nothing_to_watch():
    server = HintServer(lambda connection: connection.rest())
    async with server.running():
        listening = Listening(InfoMint(server.url))
        async with listening.running():
            await until(lambda: listening.subscriber.status().link is HintLink.IDLE)
            assert listening.mint.asked == 0
            listening.subscriber.watch({HintKind.PROOF_STATE: [A]})
            await until(lambda: connected(listening))


async def test_a_change_between_two_connections_is_told_by_the_second_ones_replay():
    async def first(connection):
        await connection.accept()
        await connection.socket.close()

    async def second(connection):
        request = await connection.receive()
        await connection.ok(request)
        await connection.push(request["params"], A, "SPENT")
        await connection.push(request["params"], B, "UNSPENT")
        await connection.push(request["params"], C, "SPENT")
        await connection.rest()

    server = HintServer(first, second)
    async with server.running():
        listening = Listening(InfoMint(server.url))
        async with listening.running(A, B, C):
            await until(lambda: (C, "SPENT") in listening.told)
            assert listening.told == [(A, "SPENT"), (C, "SPENT")]


async def test_no_more_is_watched_than_a_connection_holds_and_the_first_come_first():
    server = HintServer(lambda connection: connection.rest())
    async with server.running():
        listening = Listening(
            InfoMint(server.url), limits={"filters_max": 4, "filters_per_message": 3, "renew_s": 60.0}
        )
        many = [str(y(n)) for n in range(9)]
        async with listening.running(*many):
            await until(lambda: listening.subscriber.status().watched == 4)
        sent = [asked["filters"] for asked in server.connections[0].subscribed]
        assert sent == [many[:3], many[3:4]]


async def test_a_young_connection_that_is_full_is_not_replaced():
    server = HintServer(lambda connection: connection.rest())
    async with server.running():
        listening = Listening(InfoMint(server.url), limits={"filters_max": 2, "renew_s": 60.0})
        async with listening.running(A, B):
            await until(lambda: listening.subscriber.status().watched == 2)
            for n in range(20):
                listening.subscriber.watch({HintKind.PROOF_STATE: [str(y(n))]})
                await asyncio.sleep(0.005)
            assert len(server.connections) == 1


def test_the_address_is_the_mints_with_its_path():
    assert websocket_url("http://127.0.0.1:3338") == "ws://127.0.0.1:3338/v1/ws"
    assert websocket_url("https://mint.example/Bitcoin/") == "wss://mint.example/Bitcoin/v1/ws"


async def test_what_a_mint_pushes_is_in_no_log(caplog):
    """A melt quote's message holds the preimage (I10), and the library writes whole frames at DEBUG."""
    caplog.set_level(logging.DEBUG)

    async def telling(connection):
        asked = await connection.accept()
        payload = {"quote": "q", "state": "PAID", "payment_preimage": "c0ffee" * 8}
        params = {"subId": asked["subId"], "payload": payload}
        await connection.send({"jsonrpc": "2.0", "method": "subscribe", "params": params})
        await connection.send("x" * 100_000)
        await connection.rest()

    server = HintServer(telling)
    async with server.running(logger=logging.getLogger("nobody's")):
        logging.getLogger("nobody's").disabled = True
        listening = Listening(InfoMint(server.url), limits={"message_bytes_max": 50_000})
        async with listening.running(quotes=("q",)):
            await until(lambda: listening.telemetry.reconnected)
    assert listening.told[0] == ("q", "PAID")
    assert "c0ffee" not in caplog.text
    assert "xxx" not in caplog.text


BOTH = frozenset({"proof_state", "bolt11_melt_quote"})


@pytest.mark.parametrize(
    ("about", "offers"),
    [
        ({"supported": [{"method": "bolt11", "unit": "sat", "commands": ["proof_state", "bolt11_melt_quote"]}]}, BOTH),
        ({"supported": [{"method": "bolt11", "commands": ["proof_state"]}, {"method": "bolt11", "commands": ["bolt11_melt_quote"]}]}, BOTH),
        ({"supported": [{"method": "bolt12", "commands": ["proof_state"]}]}, frozenset()),
        ({"supported": [{"method": "bolt11"}]}, frozenset()),
        ({"supported": [{"method": "bolt11", "commands": "proof_state"}, 7, None]}, frozenset()),
        ({"supported": True}, frozenset()),
        ({"supported": False}, frozenset()),
        ({}, frozenset()),
        ([], frozenset()),
        (None, frozenset()),
    ],
)  # fmt: skip
def test_what_a_mint_offers_is_read_from_its_information(about, offers):
    body = json.dumps({"name": "m", "version": "v", "nuts": {"7": {"supported": True}, "17": about}}).encode()
    found = announced.info(body, arrays_max=1000)
    assert found.subscribable == offers
    assert 7 in found.nuts


def test_a_mint_without_the_nut_offers_nothing():
    assert announced.info(b'{"nuts": {}}', arrays_max=1000).subscribable == frozenset()
    assert announced.info(b'{"nuts": 5}', arrays_max=1000).subscribable == frozenset()
