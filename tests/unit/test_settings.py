"""Settings and secrets fail at once and by name."""

from __future__ import annotations

import pytest

from functions.common.errors import ConfigurationError
from functions.common.settings import use_environment
from functions.telegram.settings import TelegramSettings, WebhookSettings


@pytest.fixture(autouse=True)
def own_environment() -> object:
    yield
    use_environment(None)


def test_every_missing_variable_is_named() -> None:
    use_environment({})

    with pytest.raises(ConfigurationError, match=r"WEBHOOK_SECRET_ID.*|INTAKE_ARN") as error:
        WebhookSettings.load()
    assert "INTAKE_ARN: Field required" in str(error.value)
    assert "WEBHOOK_SECRET_ID: Field required" in str(error.value)


def test_lists_are_split_and_empty_means_nobody() -> None:
    base = {"INTAKE_ARN": "a", "SESSION_TABLE": "t", "WEBHOOK_SECRET_ID": "s"}
    use_environment({**base, "ALLOWED_USERS": " 1, 2 ,", "ALLOWED_CHATS": ""})

    settings = WebhookSettings.load()

    assert (settings.allowed_users, settings.allowed_chats) == (("1", "2"), ())


def test_a_value_outside_the_choice_is_refused() -> None:
    use_environment({"BOT_TOKEN_SECRET_ID": "a", "RICH_MESSAGES": "sometimes"})

    with pytest.raises(ConfigurationError, match="RICH_MESSAGES: Input should be 'auto', 'always' or 'never'"):
        TelegramSettings.load()
