"""The Telegram stand-in; `server.py` tells what it is."""

from stepgram.embedded.telegram.bot_api import new_token
from stepgram.embedded.telegram.checks import BotApiError
from stepgram.embedded.telegram.server import Telegram

__all__ = ["BotApiError", "Telegram", "new_token"]
