"""What Lambda allows a function to have, as far as a template can ask for more.

Sources: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html (time, memory, `/tmp`, the unzipped
package, the environment) and https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html ("Reserved
environment variables").
"""

from __future__ import annotations

TIMEOUT = range(1, 900 + 1)
"""Seconds of one invocation."""

MEMORY = range(128, 10_240 + 1)
"""MB."""

STORAGE = range(512, 10_240 + 1)
"""MB of `/tmp`."""

UNZIPPED = 250 * 1024 * 1024
"""Bytes of a zip function's code and layers once unzipped."""

VARIABLES = 4096
"""Bytes of all variables of a function together, measured as JSON."""

RESERVED = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
    }
)
"""Variables that are Lambda's own: a function that is created with one of them is refused."""
