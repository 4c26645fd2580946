"""What the functions that meet Telegram read from their environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from functions.common.settings import NameList, Settings

RichSetting = Literal["auto", "always", "never"]


class TelegramSettings(Settings):
    """The bot, and how it says things."""

    token_secret_id: str = Field(alias="BOT_TOKEN_SECRET_ID", description="Secrets Manager id of the bot token")
    api_url: str = Field("https://api.telegram.org", alias="TELEGRAM_API_URL", description="Root of the Bot API")
    rich: RichSetting = Field(
        "auto", alias="RICH_MESSAGES", description="When answers are sent as rich messages: auto, always or never"
    )


class WebhookSettings(Settings):
    """The webhook's environment."""

    table: str = Field(alias="SESSION_TABLE", description="Name of the DynamoDB table")
    messages_per_minute: int = Field(
        20, alias="MESSAGES_PER_MINUTE", ge=0, description="Messages one user may send in a minute; 0: any number"
    )
    group_messages: Literal["mention", "all"] = Field(
        "mention",
        alias="GROUP_MESSAGES",
        description="Which messages of a group, outside topics, are for the bot: mention (and replies) or all",
    )
    bot_username: str = Field(
        "", alias="BOT_USERNAME", description="The bot's name, without @; empty: any name that ends in `bot` means it"
    )

    intake_arn: str = Field(alias="INTAKE_ARN", description="ARN of the Intake state machine")
    secret_id: str = Field(alias="WEBHOOK_SECRET_ID", description="Secrets Manager id of Telegram's webhook secret")
    allowed_users: NameList = Field(
        (), alias="ALLOWED_USERS", description="Telegram user ids who may talk to the bot, by commas; `*` for all"
    )
    allowed_chats: NameList = Field(
        (), alias="ALLOWED_CHATS", description="Telegram chat ids in which everyone may talk to the bot"
    )
    session_ttl_days: int = Field(25, alias="SESSION_TTL_DAYS", ge=1, description="Days until an idle session expires")
