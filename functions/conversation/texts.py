"""Everything the bot says of its own, in one place. English is complete; other languages fall back to it."""

from __future__ import annotations

CATALOGUE: dict[str, dict[str, str]] = {
    "start": {
        "en": "Hello {name}. I am a Claude agent: write to me, and I answer here. /help shows what I can do.",
        "zh": "你好，{name}。我是一个 Claude 智能体：给我发消息，我会在这里回答。/help 查看我能做什么。",
    },
    "help": {
        "en": "Write anything and I will answer; I remember this conversation. Photos, files and voice work too.\n\n"
        "{commands}",
        "zh": "发送任何内容，我都会回答，并记住本次对话。也可以发送照片、文件和语音。\n\n{commands}",
    },
    "lines": {
        "en": "{lines}",
        "zh": "{lines}",
    },
    "menu_help": {"en": "What I can do", "zh": "查看我能做什么"},
    "menu_new": {"en": "Forget this conversation and start afresh", "zh": "忘掉本次对话，重新开始"},
    "menu_newchat": {"en": "A new conversation, in a forum a new topic", "zh": "开始新对话（论坛中为新话题）"},
    "menu_stop": {"en": "Stop what I am doing", "zh": "停止正在进行的任务"},
    "menu_status": {"en": "Where this conversation stands", "zh": "查看当前对话状态"},
    "menu_undo": {"en": "Take back the last message and what came of it", "zh": "撤销上一条消息及其结果"},
    "menu_fork": {"en": "Go on from here separately", "zh": "从这里另开一个对话"},
    "menu_model": {"en": "Choose the model", "zh": "选择模型"},
    "menu_cost": {"en": "What this has cost", "zh": "查看费用"},
    "menu_verbose": {"en": "How much you see of my tools: 0, 1 or 2", "zh": "显示工具的详细程度：0、1 或 2"},
    "menu_debug": {"en": "Get this conversation's files", "zh": "获取本次对话的文件"},
    "menu_whoami": {"en": "Show your ids", "zh": "显示你的 ID"},
    "status_session": {
        "en": "Session {session}, version {version}",
        "zh": "会话 {session}，版本 {version}",
    },
    "status_model": {
        "en": "Model: {model} · tools shown: {verbose}",
        "zh": "模型：{model} · 工具显示：{verbose}",
    },
    "status_queue": {
        "en": "Working on a message; {waiting} more waiting.",
        "zh": "正在处理一条消息；还有 {waiting} 条等待。",
    },
    "status_idle": {
        "en": "Nothing is running.",
        "zh": "没有正在进行的任务。",
    },
    "status_last": {
        "en": "Last execution: {turn}\n{link}",
        "zh": "最近一次执行：{turn}\n{link}",
    },
    "model": {
        "en": "Model of this conversation: {model}. Choose with /model and one of: {choices}.",
        "zh": "本次对话的模型：{model}。用 /model 加以下之一选择：{choices}。",
    },
    "model_default": {"en": "default", "zh": "默认"},
    "verbose": {
        "en": "Tools shown: {verbose}. 0 - none, 1 - what runs, 2 - with its details.",
        "zh": "工具显示：{verbose}。0 - 不显示，1 - 显示名称，2 - 显示详情。",
    },
    "cost_session": {
        "en": "This session: ${cost}",
        "zh": "本次会话：${cost}",
    },
    "cost_budget": {
        "en": "{budget}: ${spent} of {limit}",
        "zh": "{budget}：${spent} / {limit}",
    },
    "no_limit": {"en": "no limit", "zh": "不限"},
    "budget_chat_day": {"en": "This conversation today", "zh": "本对话今日"},
    "budget_chat_month": {"en": "This conversation this month", "zh": "本对话本月"},
    "budget_all_day": {"en": "All conversations today", "zh": "全部对话今日"},
    "budget_all_month": {"en": "All conversations this month", "zh": "全部对话本月"},
    "budget_warning": {
        "en": "⚠️ {budget}: ${spent} of ${limit} are spent.",
        "zh": "⚠️ {budget}：已用 ${spent} / ${limit}。",
    },
    "budget_spent": {
        "en": "The budget is spent, so your message was not answered ({turn}). It is kept and can be run again later; "
        "/cost shows more.",
        "zh": "预算已用完，你的消息没有得到回答（{turn}）。消息已保留，可以稍后重新运行；用 /cost 查看详情。",
    },
    "budget_reserved": {
        "en": "Other messages are at work with what is left of the budget, so yours was not answered ({turn}). It is "
        "kept and can be run again in a moment.",
        "zh": "其他消息正在使用剩余的预算，你的消息没有得到回答（{turn}）。消息已保留，请稍后重新运行。",
    },
    "too_fast": {
        "en": "That is too fast for me. What you write in this minute from now on is not read.",
        "zh": "消息太快了。这一分钟内后续的消息不会被读取。",
    },
    "general_topic": {
        "en": "I answer in topics, one conversation each. Write there, or open one here: /newchat and your message.",
        "zh": "我在话题中回答，每个话题一个对话。请在话题里发送，或在这里用 /newchat 加上你的消息来新建话题。",
    },
    "new_topic": {
        "en": "A new conversation. What is it about?",
        "zh": "新的对话。想聊什么？",
    },
    "new_chat_opened": {
        "en": "I opened a topic for it.",
        "zh": "已为此新建话题。",
    },
    "topic_name": {"en": "New conversation", "zh": "新对话"},
    "group_left": {
        "en": "Nobody who may use me added me here, so I leave. My operator can allow people.",
        "zh": "添加我的人没有使用权限，我将离开。管理员可以授权。",
    },
    "group_without_topics": {
        "en": "Hello! Mention me or reply to me, and I answer. With topics on (group settings), each topic is a "
        "conversation of its own.",
        "zh": "你好！提及我或回复我，我就会回答。在群设置中开启话题后，每个话题都是独立的对话。",
    },
    "group_not_admin": {
        "en": "Hello! Make me an admin with the right to manage topics: then I read each topic and can open new ones.",
        "zh": "你好！请将我设为管理员并授予管理话题的权限：这样我能读取每个话题并新建话题。",
    },
    "group_without_right": {
        "en": "One right is missing: managing topics. With it, /newchat and /fork can open them.",
        "zh": "还缺少一项权限：管理话题。有了它，/newchat 和 /fork 才能新建话题。",
    },
    "group_ready": {
        "en": "All set: each topic is a conversation, and /newchat opens one.",
        "zh": "准备就绪：每个话题是一个对话，/newchat 可新建话题。",
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
    "lost": {
        "en": "What we had is not kept any more, so your next message makes a fresh start.",
        "zh": "之前的内容已不再保留，你的下一条消息将开始新的对话。",
    },
    "fork_nothing": {
        "en": "There is no conversation to go on from yet.",
        "zh": "还没有可以分支的对话。",
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
    "debug_more": {
        "en": "There are more than these {shown} files; an operator gets all with `stepgram session export`.",
        "zh": "文件多于这 {shown} 个；运维人员可用 `stepgram session export` 获取全部。",
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
    "approval_cut": {
        "en": "This is only its beginning. The whole of it is in the document above: read it first.",
        "zh": "这里只是开头。完整内容在上面的文件中，请先阅读。",
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
    "model_busy": {
        "en": "⏳ The model is busy; I keep trying.",
        "zh": "⏳ 模型繁忙，正在继续尝试。",
    },
    "ended_max_turns": {
        "en": "⚠️ I stopped here: this message has taken as many steps as one may. Tell me to go on, and I do.",
        "zh": "⚠️ 我在这里停下了：这条消息的处理步数已达上限。让我继续，我就会接着做。",
    },
    "ended_budget": {
        "en": "⚠️ I stopped here: this message has cost as much as one may. Tell me to go on, and I do.",
        "zh": "⚠️ 我在这里停下了：这条消息的费用已达上限。让我继续，我就会接着做。",
    },
    "nothing_to_stop": {
        "en": "Nothing is running here.",
        "zh": "这里没有正在进行的任务。",
    },
    "not_allowed": {
        "en": "You may not use this bot yet. Its operator can allow you with:\nstepgram access allow {code}\n"
        "(user {user})",
        "zh": "你还没有使用此机器人的权限。管理员可以用以下命令授权：\nstepgram access allow {code}\n（用户 {user}）",
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
    "not_sent_refused": {
        "en": "{name} was not sent: Telegram refuses it as too large ({megabytes} MB).",
        "zh": "{name} 未能发送：Telegram 认为它太大（{megabytes} MB）。",
    },
    "button_gone": {
        "en": "This button no longer works.",
        "zh": "此按钮已失效。",
    },
    "not_carried_out": {
        "en": "That did not work ({error}). Try again in a moment.",
        "zh": "操作没有成功（{error}）。请稍后再试。",
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
    "left_out_too_deep": {
        "en": "- {path}: it lies too deep in folders",
        "zh": "- {path}：文件夹层级太深",
    },
    "left_out_unreadable": {
        "en": "- {path}: it cannot be read",
        "zh": "- {path}：无法读取",
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
