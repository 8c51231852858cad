"""Live feeds over websockets: a client that connects to a feed, and a server that robots connect to."""

from optix_stream_adapters.websockets.codecs import Codec, JsonCodec, MessagePackCodec
from optix_stream_adapters.websockets.connection import ConnectionOptions
from optix_stream_adapters.websockets.feed import WebSocketFeed
from optix_stream_adapters.websockets.server import PolicyServer

__all__ = [
    "Codec",
    "ConnectionOptions",
    "JsonCodec",
    "MessagePackCodec",
    "PolicyServer",
    "WebSocketFeed",
]
