#!/usr/bin/python3
"""An external check of HAProxy: a handshake that asks for the export "health", and doesn't choose it."""

import os
import socket
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from nbd_client import Client  # pylint: disable=wrong-import-position

ADDRESS = os.environ["HAPROXY_SERVER_ADDR"], int(os.environ["HAPROXY_SERVER_PORT"])

client = Client(socket.create_connection(ADDRESS, timeout=5))
client.handshake()
client.info("health")
