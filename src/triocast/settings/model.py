"""The settings themselves: names, defaults, meaning, and what they may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from triocast.settings.checks import (
    HOW_TO_MAKE_A_KEY,
    MASK,
    Check,
    age_or_zero,
    between,
    check_engine,
    check_hosts,
    check_ice_servers,
    check_key_pair,
    check_origins,
    check_peerjs_path,
    check_readable,
    check_token_key,
    check_turn_secret,
    credential_lifetime,
    duration_or_zero,
    is_loopback,
    normal_origins,
    normal_path,
    one_of,
    positive_duration,
)
from triocast.settings.namespaces import NAMESPACES, Namespaces
from triocast.settings.problems import Problem, SettingsError
from triocast.settings.setting import Setting, settings_of
from triocast.settings.values import (
    BOOLEAN,
    FILE,
    HOSTS,
    INTEGER,
    LIST,
    OPTIONAL_TEXT,
    SECONDS,
    SECRET,
    TEXT,
    Kind,
)


def _mask(value: object) -> str:
    return "None" if value is None else repr(MASK)


def _setting(
    default: object,
    kind: Kind,
    help: str,
    *,
    check: Check | None = None,
    secret: bool = False,
    converter: Callable[[Any], Any] | None = None,
) -> Any:
    return attrs.field(
        default=default,
        converter=converter,
        repr=_mask if secret else True,
        metadata=Setting(help, kind, check, secret).metadata,
    )


@attrs.frozen(kw_only=True)
class Settings:
    """Everything that can be set. Sizes are in bytes, durations in seconds.

    Raises SettingsError, with all problems at once, if a value is not allowed.
    """

    host: str = _setting(
        "127.0.0.1",
        HOSTS,
        "Addresses to listen on, such as 127.0.0.1,::1; :: is every address, of IPv4 too.",
        check=check_hosts,
    )
    port: int = _setting(
        8000, INTEGER, "TCP port to listen on; 0 takes any free one.", check=between(0, 65535)
    )
    engine: str = _setting(
        "memory://",
        TEXT,
        "Where events are ordered and kept: memory:// in this process, sqlite:///FILE in a file.",
        check=check_engine,
    )
    tls_certificate: Path | None = _setting(
        None, FILE, "PEM file with the certificate chain; turns TLS on.", check=check_readable
    )
    tls_key: Path | None = _setting(
        None, FILE, "PEM file with the certificate's private key.", check=check_readable
    )
    token_key: str | None = _setting(
        None,
        SECRET,
        "Secret that signs clients' tokens (HS256), at least 32 bytes.",
        check=check_token_key,
        secret=True,
    )
    token_audience: str | None = _setting(
        None, OPTIONAL_TEXT, "The 'aud' that tokens must name; unset, they must name none."
    )
    token_in_query: bool = _setting(
        False,
        BOOLEAN,
        "Accept a token as ?token= in the address too, where proxies and browsers may log it.",
    )
    insecure_anonymous: bool = _setting(
        False, BOOLEAN, "Accept clients without a token from anywhere, with every right."
    )
    allowed_origins: tuple[str, ...] = _setting(
        (),
        LIST,
        "Origins whose pages may connect, such as https://app.example.com; * is all of them.",
        check=check_origins,
        converter=normal_origins,
    )
    websocket_enabled: bool = _setting(True, BOOLEAN, "Serve WebSocket connections.")
    sse_enabled: bool = _setting(True, BOOLEAN, "Serve Server-Sent Events.")
    signaling_enabled: bool = _setting(True, BOOLEAN, "Serve WebRTC signaling.")
    peerjs_enabled: bool = _setting(True, BOOLEAN, "Serve the PeerJS protocol (/peerjs).")
    peerjs_path: str = _setting(
        "/",
        TEXT,
        "The option 'path' of PeerJS clients: what comes before /peerjs in the address.",
        check=check_peerjs_path,
        converter=normal_path,
    )
    peerjs_discovery: bool = _setting(
        False, BOOLEAN, "Tell PeerJS clients the ids of all others (listAllPeers)."
    )
    takeover: bool = _setting(
        True,
        BOOLEAN,
        "Write to sockets directly where possible; off, every connection goes the portable way.",
    )
    max_connections: int = _setting(
        10_000, INTEGER, "Most connections at one time.", check=between(1)
    )
    max_channels_per_connection: int = _setting(
        1_000,
        INTEGER,
        "Most channels and patterns one connection may subscribe to.",
        check=between(1),
    )
    max_subscriptions: int = _setting(
        1_000_000,
        INTEGER,
        "Most channels and patterns that all connections together may subscribe to; each takes"
        " about 1 kB.",
        check=between(1),
    )
    max_event_bytes: int = _setting(65_536, INTEGER, "Largest event, in bytes.", check=between(1))
    max_body_bytes: int = _setting(
        1_048_576, INTEGER, "Largest request body, in bytes.", check=between(1)
    )
    max_message_bytes: int = _setting(
        131_072, INTEGER, "Largest WebSocket message from a client, in bytes.", check=between(1)
    )
    max_header_bytes: int = _setting(
        16_384, INTEGER, "Largest request head, in bytes.", check=between(1_024)
    )
    max_json_depth: int = _setting(
        64, INTEGER, "Deepest nesting of JSON from clients, in levels.", check=between(1, 500)
    )
    outbox_bytes: int = _setting(
        1_048_576,
        INTEGER,
        "Bytes that may wait for one slow connection before it is cut off.",
        check=between(1),
    )
    inbox_bytes: int = _setting(
        16_777_216,
        INTEGER,
        "Bytes of events that may wait for the fan-out before publishers wait.",
        check=between(1),
    )
    history_events: int = _setting(
        1_000, INTEGER, "Events kept for resuming, per channel.", check=between(0)
    )
    history_bytes: int = _setting(
        67_108_864,
        INTEGER,
        "Bytes of events kept for resuming, all channels together; each event counts its data and"
        " some hundred bytes.",
        check=between(0),
    )
    history_seconds: float = _setting(
        0.0,
        SECONDS,
        "Seconds that events are kept for resuming; 0 is as long as there is room.",
        check=age_or_zero,
    )
    signaling_peers_per_room: int = _setting(
        32, INTEGER, "Most peers in one room of WebRTC signaling.", check=between(1, 1_000)
    )
    signaling_grace_seconds: float = _setting(
        30.0,
        SECONDS,
        "Seconds a peer has to come back when its signaling connection broke.",
        check=positive_duration,
    )
    signaling_relay_data: bool = _setting(
        False, BOOLEAN, "Let peers whose tokens allow it send data through the server."
    )
    stun_servers: tuple[str, ...] = _setting(
        (),
        LIST,
        "STUN servers that peers are told of, such as stun:stun.example.com:3478.",
        check=check_ice_servers("stun"),
    )
    turn_servers: tuple[str, ...] = _setting(
        (),
        LIST,
        "TURN servers that peers are told of, such as turn:turn.example.com:3478.",
        check=check_ice_servers("turn"),
    )
    turn_secret: str | None = _setting(
        None,
        SECRET,
        "The secret that TURN servers share with this server (coturn's static-auth-secret).",
        check=check_turn_secret,
        secret=True,
    )
    turn_seconds: float = _setting(
        3_600.0, SECONDS, "Seconds that TURN credentials last.", check=credential_lifetime
    )
    max_documents: int = _setting(
        100_000, INTEGER, "Most documents, all channels together.", check=between(0)
    )
    documents_bytes: int = _setting(
        67_108_864, INTEGER, "Bytes of documents, all channels together.", check=between(0)
    )
    idempotency_seconds: float = _setting(
        86_400.0,
        SECONDS,
        "Seconds in which an event with the same idempotency key is not published again; 0 is off.",
        check=age_or_zero,
    )
    idempotency_records: int = _setting(
        500_000,
        INTEGER,
        "Most idempotency keys that are remembered; beyond it the oldest are forgotten.",
        check=between(0),
    )
    idempotency_bytes: int = _setting(
        67_108_864,
        INTEGER,
        "Bytes of idempotency keys that are remembered; beyond it the oldest are forgotten.",
        check=between(0),
    )
    durability: str = _setting(
        "power",
        TEXT,
        "What an acknowledged event survives with sqlite: loss of power, or the end of the process,"
        " which is faster.",
        check=one_of("power", "process"),
    )
    heartbeat_seconds: float = _setting(
        25.0, SECONDS, "Seconds between two heartbeats.", check=positive_duration
    )
    handshake_seconds: float = _setting(
        10.0,
        SECONDS,
        "Seconds a client has to complete its TLS handshake and its request's head.",
        check=positive_duration,
    )
    keep_alive_seconds: float = _setting(
        15.0,
        SECONDS,
        "Seconds an HTTP connection may stay open without a request.",
        check=positive_duration,
    )
    publish_wait_seconds: float = _setting(
        5.0,
        SECONDS,
        "Seconds a publisher waits for room in the inbox before it gets a 503.",
        check=duration_or_zero,
    )
    drain_seconds: float = _setting(
        10.0,
        SECONDS,
        "Seconds over which clients are sent away when the server stops; 3 s later it has ended.",
        check=duration_or_zero,
    )
    presence_grace_seconds: float = _setting(
        5.0,
        SECONDS,
        "Seconds that somebody may be gone from a channel before others are told.",
        check=duration_or_zero,
    )
    event_debounce_ms: int = _setting(
        0,
        INTEGER,
        "Window in milliseconds in which of events with one channel, type and key only the first"
        " and the last are sent; 0 is off.",
        check=between(0, 86_400_000),
    )
    namespaces: Namespaces = _setting(
        Namespaces(),
        NAMESPACES,
        "Options of each namespace's channels, by the namespace's name.",
    )
    log_level: str = _setting(
        "info",
        TEXT,
        "Least severe level that is logged: debug, info, warning or error.",
        check=one_of("debug", "info", "warning", "error"),
    )
    log_format: str = _setting(
        "text",
        TEXT,
        "How a log line is written: text or json.",
        check=one_of("text", "json"),
    )

    @property
    def hosts(self) -> tuple[str, ...]:
        """What ``host`` lists."""
        return tuple(self.host.split(","))

    def __attrs_post_init__(self) -> None:
        problems = tuple(_find_problems(self))
        if problems:
            raise SettingsError(*problems)


SETTINGS: Final[Mapping[str, Setting]] = settings_of(Settings)
"""All settings by name, in the order in which they are shown."""


def _find_problems(settings: Settings) -> Iterator[Problem]:
    sound = True
    for name, setting in SETTINGS.items():
        value = getattr(settings, name)
        found = setting.find_wrong_kind(value)
        if found:
            sound = False
        elif setting.check:
            found = setting.check(value)
        if found:
            yield Problem(name, "argument", *found)
    if sound:
        yield from _find_contradictions(settings)


def _find_contradictions(settings: Settings) -> Iterator[Problem]:
    for bound in ("outbox_bytes", "inbox_bytes", "max_body_bytes"):
        limit = getattr(settings, bound)
        if settings.max_event_bytes > limit:
            yield Problem(
                "max_event_bytes",
                "argument",
                f"an event of {settings.max_event_bytes} bytes does not fit into {bound} = {limit}",
                f"lower max_event_bytes or raise {bound}",
                related=(bound,),
            )
    if "*" in settings.allowed_origins and settings.token_key is None:
        yield Problem(
            "allowed_origins",
            "argument",
            "'*' without a token_key lets every web page on the internet use this server",
            "name the origins, or set token_key",
            related=("token_key",),
        )
    if settings.turn_servers and not settings.turn_secret:
        yield Problem(
            "turn_servers",
            "argument",
            "peers cannot use a TURN server without credentials",
            "set turn_secret to the static-auth-secret of the TURN servers",
            related=("turn_secret",),
        )
    certificate, key = settings.tls_certificate, settings.tls_key
    if (certificate is None) != (key is None):
        there, missing = "tls_certificate", "tls_key"
        if certificate is None:
            there, missing = missing, there
        yield Problem(
            there,
            "argument",
            f"is set, but {missing} is not",
            f"set {missing} too, or neither for plain HTTP",
            related=(missing,),
        )
    elif certificate and key and (found := check_key_pair(certificate, key)):
        yield Problem("tls_certificate", "argument", *found, related=("tls_key",))


def check_bind(settings: Settings, source: str = "argument") -> None:
    """Refuse to listen where strangers could come in without a token.

    ``source`` says where ``host`` came from. Raises SettingsError.
    """
    strange = [host for host in settings.hosts if not is_loopback(host)]
    if settings.token_key or settings.insecure_anonymous or not strange:
        return
    raise SettingsError(
        Problem(
            "host",
            source,
            f"{strange[0]} can be reached from other machines, and nothing says who may call",
            "set token_key (TRIOCAST_TOKEN_KEY; this makes one: "
            f"{HOW_TO_MAKE_A_KEY}), or listen on 127.0.0.1, or set insecure_anonymous to "
            "give everybody every right",
            related=("token_key", "insecure_anonymous"),
        )
    )
