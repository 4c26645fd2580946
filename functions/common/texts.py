"""Everything the bot says of its own, in one place. English is complete; other languages fall back to it."""

from __future__ import annotations

CATALOGUE: dict[str, dict[str, str]] = {
    "start": {
        "en": "Hello {name}. I am a Claude agent: write to me, and I answer here. /help shows what I can do.",
        "zh": "你好，{name}。我是一个 Claude 智能体：给我发消息，我会在这里回答。/help 查看我能做什么。",
    },
    "help": {
        "en": "Write anything and I will answer; I remember this conversation.\n\n"
        "/new - forget this conversation and start afresh\n"
        "/undo - take back the last message, my answer and what I did to files\n"
        "/fork - go on from here separately\n"
        "/debug - get this conversation's files\n"
        "/stop - stop what I am doing\n"
        "/whoami - show your ids\n"
        "/help - this text",
        "zh": "发送任何内容，我都会回答，并记住本次对话。\n\n"
        "/new - 忘掉本次对话，重新开始\n"
        "/undo - 撤销上一条消息、我的回答和对文件的改动\n"
        "/fork - 从这里另开一个对话\n"
        "/debug - 获取本次对话的文件\n"
        "/stop - 停止正在进行的任务\n"
        "/whoami - 显示你的 ID\n"
        "/help - 显示本说明",
    },
    "unknown_command": {
        "en": "I do not know /{command}.",
        "zh": "我不认识 /{command} 这个命令。",
    },
    "new": {
        "en": "Done: this conversation starts afresh.",
        "zh": "好的，对话已重新开始。",
    },
    "undone": {
        "en": "Done: we are where we were before your last message, files included.",
        "zh": "好的，已回到你上一条消息之前，文件也一并恢复。",
    },
    "undo_nothing": {
        "en": "There is nothing to take back.",
        "zh": "没有可以撤销的内容。",
    },
    "undo_busy": {
        "en": "I am working on something here. Wait for it or /stop it, then /undo.",
        "zh": "我正在处理此对话中的任务。请等待完成或用 /stop 停止，然后再 /undo。",
    },
    "undo_gone": {
        "en": "What was before is no longer kept.",
        "zh": "更早的内容已不再保留。",
    },
    "fork_nothing": {
        "en": "There is no conversation to go on from yet.",
        "zh": "还没有可以分支的对话。",
    },
    "fork_topic": {
        "en": "Fork",
        "zh": "分支",
    },
    "fork_refused": {
        "en": "I could not open a topic: {reason}",
        "zh": "无法创建话题：{reason}",
    },
    "forked": {
        "en": "A copy of this conversation goes on in the new topic.",
        "zh": "本次对话的副本在新话题中继续。",
    },
    "forked_there": {
        "en": "This topic goes on from a copy of the other conversation.",
        "zh": "此话题从另一对话的副本继续。",
    },
    "forked_here": {
        "en": "From here on this is a copy; what we had stays as it is (session {session}).",
        "zh": "从现在起这是一个副本；之前的内容保持不变（会话 {session}）。",
    },
    "debug_nothing": {
        "en": "There is no conversation yet.",
        "zh": "还没有对话。",
    },
    "debug_too_large": {
        "en": "{name} is too large to send ({megabytes} MB).",
        "zh": "{name} 太大，无法发送（{megabytes} MB）。",
    },
    "whoami": {
        "en": "User {user}, chat {chat}, topic {thread}.",
        "zh": "用户 {user}，聊天 {chat}，话题 {thread}。",
    },
    "stopped": {
        "en": "⏹ Stopped.",
        "zh": "⏹ 已停止。",
    },
    "approval_ask": {
        "en": "🔐 May I run {tool}?",
        "zh": "🔐 可以运行 {tool} 吗？",
    },
    "approval_foot": {
        "en": "{who} may decide. No answer within {hours} h, or a message instead, means no.",
        "zh": "由 {who} 决定。{hours} 小时内未回答，或直接发送消息，都表示不允许。",
    },
    "approval_others": {
        "en": "Those who are appointed",
        "zh": "指定的人",
    },
    "approval_allow": {
        "en": "Allow once",
        "zh": "允许一次",
    },
    "approval_always": {
        "en": "Always in this conversation",
        "zh": "本次对话中始终允许",
    },
    "approval_deny": {
        "en": "Deny",
        "zh": "拒绝",
    },
    "approved_allow": {
        "en": "✅ Allowed once by {by}.",
        "zh": "✅ {by} 已允许一次。",
    },
    "approved_always": {
        "en": "✅ Allowed in this conversation by {by}.",
        "zh": "✅ {by} 已在本次对话中始终允许。",
    },
    "approved_deny": {
        "en": "❌ Denied by {by}.",
        "zh": "❌ {by} 已拒绝。",
    },
    "approved_stop": {
        "en": "⏹ Stopped by {by}.",
        "zh": "⏹ {by} 已停止。",
    },
    "approved_timeout": {
        "en": "⌛ Nobody answered in time.",
        "zh": "⌛ 超时无人回答。",
    },
    "not_yours": {
        "en": "Somebody else has to decide this.",
        "zh": "这需要由其他人决定。",
    },
    "waiting": {
        "en": "⏳ Taken up. Before this message: {count}.",
        "zh": "⏳ 已收到。前面还有 {count} 条消息。",
    },
    "tool_runs": {
        "en": "🔧 {tool}{what}",
        "zh": "🔧 {tool}{what}",
    },
    "nothing_to_stop": {
        "en": "Nothing is running here.",
        "zh": "这里没有正在进行的任务。",
    },
    "not_allowed": {
        "en": "You may not use this bot. Its operator can allow you: user {user}, chat {chat}.",
        "zh": "你没有使用此机器人的权限。管理员可以授权：用户 {user}，聊天 {chat}。",
    },
    "unsupported": {
        "en": "I cannot read this kind of message. Text, photos, files, voice, video, places and contacts work.",
        "zh": "我无法读取这类消息。文字、图片、文件、语音、视频、位置和联系人都可以。",
    },
    "file_too_large": {
        "en": "This file is too large: a bot may download 20 MB. Please send a smaller one, or a link.",
        "zh": "文件太大：机器人最多只能下载 20 MB。请发送更小的文件或链接。",
    },
    "not_sent_too_large": {
        "en": "{name} is too large to send ({megabytes} MB; a bot may send 50 MB).",
        "zh": "{name} 太大，无法发送（{megabytes} MB；机器人最多发送 50 MB）。",
    },
    "button_gone": {
        "en": "This button no longer works.",
        "zh": "此按钮已失效。",
    },
    "failed": {
        "en": "Something went wrong and your message was not answered ({error}). "
        "It is kept and can be run again; its name is {turn}.",
        "zh": "出错了，你的消息没有得到回答（{error}）。消息已保留，可以重新运行；名称为 {turn}。",
    },
    "too_many_waiting": {
        "en": "Too many messages are waiting in this conversation, so this one was not taken ({turn}). "
        "It is kept and can be run later.",
        "zh": "此对话中等待的消息太多，这条消息未被处理（{turn}）。消息已保留，可以稍后运行。",
    },
    "run_again": {
        "en": "Run again",
        "zh": "重新运行",
    },
    "running_again": {
        "en": "Running it again.",
        "zh": "正在重新运行。",
    },
    "already_running": {
        "en": "It is running already.",
        "zh": "已经在运行。",
    },
    "already_answered": {
        "en": "It is answered already.",
        "zh": "已经回答过了。",
    },
    "too_old": {
        "en": "This message is too old to be run again. Please send it anew.",
        "zh": "这条消息太旧，无法重新运行。请重新发送。",
    },
    "session_lost": {
        "en": "The memory of our earlier conversation has expired, so this is a fresh start.",
        "zh": "之前对话的记忆已过期，现在是新的对话。",
    },
    "left_out": {
        "en": "Not kept for your next message:",
        "zh": "以下内容不会保留到下一条消息：",
    },
    "left_out_too_large": {
        "en": "- {path} ({megabytes} MB): the file is too large",
        "zh": "- {path}（{megabytes} MB）：文件太大",
    },
    "left_out_too_many": {
        "en": "- {path}: there are too many files",
        "zh": "- {path}：文件数量太多",
    },
    "left_out_no_room": {
        "en": "- {path} ({megabytes} MB): all files together are too large",
        "zh": "- {path}（{megabytes} MB）：所有文件的总大小超出限制",
    },
    "left_out_outside": {
        "en": "- {path}: the link points outside the workspace",
        "zh": "- {path}：链接指向工作区之外",
    },
    "left_out_not_a_file": {
        "en": "- {path}: it is no ordinary file",
        "zh": "- {path}：不是普通文件",
    },
    "left_out_bad_name": {
        "en": "- {path}: its name is not valid text",
        "zh": "- {path}：文件名不是有效文本",
    },
    "left_out_more": {
        "en": "- and {count} more",
        "zh": "- 以及另外 {count} 个",
    },
    "empty_answer": {
        "en": "The agent finished without a text.",
        "zh": "智能体已完成，但没有返回文字。",
    },
    "answer_as_document": {
        "en": "The answer is longer than messages can carry; the whole text is in this file.",
        "zh": "回答太长，无法用消息发送，全文见此文件。",
    },
}


def say(name: str, language: str, /, **values: object) -> str:
    """The text `name` in the user's language (an IETF tag such as `zh-hans`), with `values` filled in."""
    texts = CATALOGUE[name]
    return texts.get(language.split("-")[0].lower(), texts["en"]).format(**values)
