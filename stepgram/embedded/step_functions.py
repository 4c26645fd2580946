"""What moto's Step Functions interpreter (5.2.5) lacks, added at its seams. Each addition has a test.

- Nested `states:startExecution`: its parameters in the API's casing, its answer in the state language's.
- StartSyncExecution, RedriveExecution, and DescribeExecution's redrive fields.
- DescribeStateMachineForExecution gives the definition the execution started with.
- StartExecution is atomic: two at once with one name give one execution.
- StopExecution with error and cause, effective at once.
- `States.ALL` does not match States.Runtime and States.DataLimitExceeded.
- A task token works once: the second answer gets TaskTimedOut. SendTaskFailure passes its cause on.
- Each try of a state has a task token of its own, and is heard from its beginning.
- Executions are kept event by event and restored; one that ran goes on from the state it was in, as a retry of it.
- Each Task is signed for by its state machine's role (`iam.py`), and a refusal has the name it has on AWS.

Sources: the AWS Step Functions API reference, and "Restarting state machine executions with redrive" in the developer
guide (https://docs.aws.amazon.com/step-functions/latest/dg/redrive-executions.html).
"""

from __future__ import annotations

import copy
import hashlib
import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.core.config import default_user_config
from moto.settings import moto_server_port
from moto.stepfunctions.parser.api import ExecutionStatus, HistoryEventType, StateMachineType
from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.error_equals_decl import ErrorEqualsDecl
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import FailureEvent
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
from moto.stepfunctions.parser.asl.component.common.timeouts.timeout import TimeoutSeconds
from moto.stepfunctions.parser.asl.component.eval_component import EvalComponent
from moto.stepfunctions.parser.asl.component.state.exec.execute_state import ExecutionState
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
from moto.stepfunctions.parser.asl.component.state.exec.state_task.credentials import StateCredentials
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service_dynamodb,
    state_task_service_lambda,
    state_task_service_sfn,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.resource import ResourceCondition
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import StateTaskService
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_callback import (
    StateTaskServiceCallback,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_dynamodb import (
    StateTaskServiceDynamoDB,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_lambda import (
    StateTaskServiceLambda,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_sfn import (
    StateTaskServiceSfn,
)
from moto.stepfunctions.parser.asl.eval.callback.callback import CallbackEndpoint, HeartbeatEndpoint
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.eval.event.event_manager import EventHistoryContext, EventManager
from moto.stepfunctions.parser.asl.eval.program_state import (
    ProgramEnded,
    ProgramError,
    ProgramRunning,
    ProgramStopped,
    ProgramTimedOut,
)
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser
from moto.stepfunctions.parser.asl.utils import json_path
from moto.stepfunctions.parser.backend.execution import (
    BaseExecutionWorkerCommunication,
    Execution,
    SyncExecution,
)
from moto.stepfunctions.parser.backend.execution_worker import ExecutionWorker
from moto.stepfunctions.parser.models import StepFunctionsParserBackend, stepfunctions_parser_backends

from functions.common.observability import logger
from stepgram.embedded.client import secret_key
from stepgram.embedded.iam import role_name
from stepgram.embedded.state import Change, Keep, StateError, Store, nothing_is_kept

_making = threading.Lock()

REDRIVABLE = timedelta(days=14)
"""How long after its end an execution can be redriven (developer guide, redrive)."""

UNCATCHABLE = [
    StatesErrorName(typ=StatesErrorNameType.StatesRuntime),
    StatesErrorName(typ=StatesErrorNameType.StatesStatesDataLimitExceeded),
]
"""What `States.ALL` does not match (developer guide, "Handling errors in Step Functions workflows")."""

ENDED = (ExecutionStatus.FAILED, ExecutionStatus.ABORTED, ExecutionStatus.TIMED_OUT)

LAST_EVENTS = (
    HistoryEventType.ExecutionSucceeded,
    HistoryEventType.ExecutionFailed,
    HistoryEventType.ExecutionAborted,
    HistoryEventType.ExecutionTimedOut,
)
"""Kept together with the status they tell of."""

AGAIN = "stepgram: entered again"
"""Where an environment's heap has the name of the state that a restored execution enters again."""

REFUSED = {
    StateTaskServiceLambda: "Lambda.AWSLambdaException",
    StateTaskServiceDynamoDB: "DynamoDB.AmazonDynamoDBException",
    StateTaskServiceSfn: "StepFunctions.AWSStepFunctionsException",
}
"""What a Task fails with when the state machine's role may not do it: not AccessDeniedException, which is in the cause.

Lambda's as reported (https://github.com/awslabs/aws-deployment-framework/issues/460). The others by the same rule, that
an error without a class of its own has the service's base class in the SDK for Java: DynamoDB's
https://github.com/alexa-samples/skill-sample-python-highlowgame/issues/1, Step Functions'
https://github.com/localstack/localstack/pull/1869. They were not seen in an account.
"""

Reply = tuple[int, dict[str, Any]]
"""An HTTP status and the JSON body of an API answer."""


class ApiError(Exception):
    """An error of the Step Functions API, by its code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class StepFunctions:
    """The additions around one account's backend.

    `keep` is told of each event of an execution before the execution goes on, and of its end before anybody else is;
    `on_change` hears of every execution that ends or is redriven.
    """

    def __init__(self, account: str, region: str) -> None:
        default_user_config["stepfunctions"] = {"execute_state_machine": True}
        self._backend: StepFunctionsParserBackend = stepfunctions_parser_backends[account][region]
        self._account = account
        self._region = region
        self._starting = threading.Lock()
        self._ending = threading.Lock()
        self._used_tokens: set[str] = set()
        self._recording = threading.RLock()
        self._known_definitions: set[str] = set()
        self.keep: Keep = nothing_is_kept
        self.on_change: Callable[[Any], None] = lambda execution: None
        _patch(self)

    def actions(self) -> dict[str, Callable[[dict[str, Any]], Reply]]:
        """The API actions that are answered here instead of by moto."""
        return {
            "StartSyncExecution": self._start_sync,
            "RedriveExecution": self._redrive,
            "DescribeExecution": self._describe,
            "DescribeStateMachineForExecution": self._describe_machine,
            "StopExecution": self._stop,
            "SendTaskFailure": self._fail_task,
            "ValidateStateMachineDefinition": self._validate,
        }

    def guard(self, action: str, body: dict[str, Any]) -> None:
        """What is checked before moto answers. Raises ApiError."""
        if action in ("SendTaskSuccess", "SendTaskFailure", "SendTaskHeartbeat"):
            token = body.get("taskToken", "")
            with self._starting:
                if token in self._used_tokens:
                    raise ApiError("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'")
                if action != "SendTaskHeartbeat":
                    self._used_tokens.add(token)

    @property
    def starting(self) -> threading.Lock:
        """Held while an execution is started, so that a name is taken once."""
        return self._starting

    def executions(self, machine_arn: str | None = None) -> list[Any]:
        """All STANDARD executions, oldest first. (Not for who acts on a status: it may not be kept yet.)"""
        found = [e for m in self._backend.state_machines for e in list(m.executions)]
        # One that is being made has no status yet.
        wanted = [e for e in found if e.sm_type == StateMachineType.STANDARD and e.exec_status is not None]
        return sorted((e for e in wanted if machine_arn in (None, e.state_machine.arn)), key=lambda e: e.start_date)

    def _execution(self, arn: str) -> Any:
        for machine in self._backend.state_machines:
            for execution in machine.executions:
                if execution.exec_arn == arn:
                    return execution
        raise ApiError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")

    def _start_sync(self, body: dict[str, Any]) -> Reply:
        machine = self._backend.describe_state_machine(body["stateMachineArn"])
        if machine.type != "EXPRESS":
            raise ApiError("StateMachineTypeNotSupported", "This operation is not supported by this type")
        name = body.get("name") or str(uuid.uuid4())
        arn = f"arn:aws:states:{self._region}:{self._account}:express:{machine.name}:{name}:{uuid.uuid4()}"
        execution = SyncExecution(
            name=name,
            sm_type=machine.sm_type,
            role_arn=machine.roleArn,
            exec_arn=arn,
            account_id=self._account,
            region_name=self._region,
            state_machine=_detached(machine),
            start_date=datetime.now(UTC),
            cloud_watch_logging_session=None,
            input_data=body.get("input", "{}"),
            trace_header=body.get("traceHeader"),
            activity_store={},
        )
        execution.start()
        answer = execution.to_start_sync_execution_output()
        duration = execution.stop_date - execution.start_date
        return 200, _plain(
            {
                **answer,
                "billingDetails": {
                    "billedDurationInMilliseconds": -(-int(duration.total_seconds() * 1000) // 100) * 100,
                    "billedMemoryUsedInMB": 64,
                },
            }
        )

    def _describe(self, body: dict[str, Any]) -> Reply:
        with self._ending:
            execution = self._execution(body["executionArn"])
            described = execution.to_describe_output()
        answer = {
            **described,
            "redriveCount": redrive_count(execution),
            "redriveStatus": "REDRIVABLE" if _redrivable(execution) else "NOT_REDRIVABLE",
            "redriveDate": getattr(execution, "redrive_date", None),
            "redriveStatusReason": None if _redrivable(execution) else _reason(execution),
        }
        return 200, _plain(answer)

    def _fail_task(self, body: dict[str, Any]) -> Reply:
        """moto's own leaves the cause out."""
        self._backend.send_task_failure(body["taskToken"], error=body.get("error"), cause=body.get("cause"))
        return 200, {}

    def _validate(self, _: dict[str, Any]) -> Reply:
        """moto has no such check; what a definition must hold is tested by `tests/definitions.py`."""
        raise ApiError("UnknownOperation", "definitions are not checked here")

    def _describe_machine(self, body: dict[str, Any]) -> Reply:
        execution = self._execution(body["executionArn"])
        machine = execution.state_machine
        return 200, _plain(
            {
                "stateMachineArn": machine.arn,
                "name": machine.name,
                "definition": machine.definition,
                "roleArn": machine.roleArn,
                "updateDate": execution.start_date,
            }
        )

    def _stop(self, body: dict[str, Any]) -> Reply:
        execution = self._execution(body["executionArn"])
        with self._ending:
            stopped = execution.exec_status == ExecutionStatus.RUNNING
            if stopped:
                execution = self._abort(execution, body.get("error"), body.get("cause"))
        if stopped:
            self.on_change(execution)
        return 200, _plain({"stopDate": execution.stop_date})

    def _abort(self, execution: Any, error: str | None, cause: str | None) -> Any:
        """End an execution at once, as AWS does, although a task of it may run on for long.

        moto's thread sits in that task until it returns, so it is left behind with its environment, and the execution
        goes on without it as one restored from its own history.
        """
        now = datetime.now(UTC)
        with self._recording:
            execution.left_behind = True
            document = self.dump(execution)
        execution.stop(now, error, cause)
        for machine in self._backend.state_machines:
            machine.executions[:] = [e for e in machine.executions if e is not execution]
        last = len(document["history"])
        details = {k: v for k, v in (("error", error), ("cause", cause)) if v is not None}
        event = {
            "id": last + 1,
            "previousEventId": last,
            "timestamp": now.timestamp(),
            "type": HistoryEventType.ExecutionAborted.value,
            "executionAbortedEventDetails": details,
        }
        ended = {"status": "ABORTED", "stop_date": now.isoformat(), "error": error, "cause": cause}
        aborted = self.restore({**document, **ended, "history": [*document["history"], event]})
        aborted.kept_events = execution.kept_events
        self._record(aborted, status=True)
        return aborted

    def _redrive(self, body: dict[str, Any]) -> Reply:
        with self._starting, self._ending:
            execution = self._execution(body["executionArn"])
            if not _redrivable(execution):
                raise ApiError(
                    "ExecutionNotRedrivable",
                    f"Execution '{execution.exec_arn}' is {execution.status} and cannot be redriven",
                )
            env = execution.exec_worker.env
            count = redrive_count(execution) + 1
            env.states.context_object.context_object_data["Execution"]["RedriveCount"] = count
            execution.redrive_date = datetime.now(UTC)
            execution.error = execution.cause = execution.stop_date = None
            execution.exec_status = ExecutionStatus.RUNNING
            env.event_manager.add_event(
                context=env.event_history_context,
                event_type=HistoryEventType.ExecutionRedriven,
                event_details=EventDetails(executionRedrivenEventDetails={"redriveCount": count}),
            )
            self._record(execution, status=True)
            _go_on(execution)
        self.on_change(execution)
        return 200, _plain({"redriveDate": execution.redrive_date})

    def _record(self, execution: Any, status: bool = False) -> None:
        """Keep the events that are new, or with the status all that is. Raises StateError."""
        if isinstance(execution, SyncExecution) or execution.sm_type != StateMachineType.STANDARD:
            return
        with self._recording:
            if getattr(execution, "left_behind", False):
                return
            history = execution.exec_worker.env.event_manager._history_event_list if execution.exec_worker else []
            new = history[execution.kept_events :]
            if not status and new[-1]["type"] in LAST_EVENTS:
                return
            arn = execution.exec_arn
            changes = [Change("event", arn, event["id"], _plain(event)) for event in new]
            if status:
                changes += self._status(execution)
            self.keep(*changes)
            execution.kept_events += len(new)

    def _status(self, execution: Any) -> list[Change]:
        """All of an execution but its events. The definitions, which are long, are kept once each."""
        arn, definition = execution.exec_arn, execution.state_machine.definition
        digest = hashlib.sha256(definition.encode()).hexdigest()
        changes = [Change("execution", arn, 0, {**_facts(execution), "definition": digest})]
        if digest not in self._known_definitions:
            self._known_definitions.add(digest)
            changes.append(Change("definition", digest, 0, definition))
        if execution.exec_status != ExecutionStatus.RUNNING:
            changes.append(Change("ending", arn, 0, True))
        return changes

    def restore_all(self, store: Store) -> None:
        """All executions that are kept, in the order they began. Raises StateError."""
        definitions = {row.owner: row.value for row in store.rows("definition")}
        histories: dict[str, list[Any]] = {}
        for row in store.rows("event"):
            histories.setdefault(row.owner, []).append(row.value)
        documents = [row.value for row in store.rows("execution")]
        for document in sorted(documents, key=lambda d: str(d["start_date"])):
            definition, history = definitions[document["definition"]], histories.get(document["arn"], [])
            self.restore({**document, "definition": definition, "history": history})
        self._known_definitions = set(definitions)

    def dump(self, execution: Any) -> dict[str, Any]:
        """An execution as a JSON document, to be restored by another process."""
        history = execution.exec_worker.env.event_manager.get_event_history()
        return _plain({**_facts(execution), "definition": execution.state_machine.definition, "history": history})

    def restore(self, document: dict[str, Any]) -> Any:
        """The execution of a saved document; it goes on only when `go_on` is called for it."""
        machine = next(m for m in self._backend.state_machines if m.name == document["machine"])
        pinned = _detached(machine)
        pinned.definition = document["definition"]
        execution = Execution(
            name=document["name"],
            sm_type=machine.sm_type,
            role_arn=machine.roleArn,
            exec_arn=document["arn"],
            account_id=self._account,
            region_name=self._region,
            state_machine=pinned,
            start_date=datetime.fromisoformat(document["start_date"]),
            cloud_watch_logging_session=None,
            input_data=document["input"],
            activity_store={},
        )
        execution.exec_status = ExecutionStatus(document["status"])
        execution.output = document.get("output")
        execution.error, execution.cause = document.get("error"), document.get("cause")
        if document.get("stop_date"):
            execution.stop_date = datetime.fromisoformat(document["stop_date"])
        worker = execution._get_start_execution_worker()
        execution.exec_worker = worker
        env = worker.env = worker._get_evaluation_environment()
        env.event_manager._history_event_list.extend(document["history"])
        env.event_manager._event_id_gen._next_id = len(document["history"]) + 1
        env.event_history_context = EventHistoryContext(len(document["history"]))
        env._program_state = _program_state(execution)
        if document["redrive_count"]:
            context = env.states.context_object.context_object_data["Execution"]
            context["RedriveCount"] = document["redrive_count"]
        if execution.output is not None:
            env.states.reset(execution.output)
        execution.kept_events = len(document["history"])
        machine.executions.append(execution)
        return execution

    def go_on(self, execution: Any) -> None:
        """Run a restored execution on from the state it was in, as AWS would have without us."""
        if execution.exec_worker.env.event_manager.get_event_history():
            _go_on(execution, again=True)
        else:
            execution.exec_worker.start()


def _facts(execution: Any) -> dict[str, Any]:
    """All of an execution but its definition and history."""
    return _plain(
        {
            "name": execution.name,
            "arn": execution.exec_arn,
            "machine": execution.state_machine.name,
            "status": execution.status,
            "input": execution.execution_input,
            "output": execution.output,
            "error": execution.error,
            "cause": execution.cause,
            "start_date": execution.start_date.isoformat(),
            "stop_date": execution.stop_date.isoformat() if execution.stop_date else None,
            "redrive_count": redrive_count(execution),
        }
    )


def redrive_count(execution: Any) -> int:
    """How often an execution was redriven."""
    worker = execution.exec_worker
    if worker is None or worker.env is None:
        return 0
    return int(worker.env.states.context_object.context_object_data["Execution"].get("RedriveCount", 0))


def _redrivable(execution: Any) -> bool:
    if execution.sm_type != StateMachineType.STANDARD or execution.exec_status not in ENDED:
        return False
    return bool(execution.stop_date and datetime.now(UTC) - execution.stop_date < REDRIVABLE)


def _go_on(execution: Any, again: bool = False) -> None:
    """Evaluate the program again from the last state it entered, with that state's input; `again`: as a retry."""
    env = execution.exec_worker.env
    program = AmazonStateLanguageParser.parse(execution.state_machine.definition)[0]
    entered = [e["stateEnteredEventDetails"] for e in env.event_manager.get_event_history() if _is_entered(e)]
    env._program_state = ProgramRunning()
    env.heap.clear()  # retry counters start again
    if entered:
        env.next_state_name = entered[-1]["name"]
        env.states.reset(json.loads(entered[-1]["input"]))
        env.heap[AGAIN] = env.next_state_name if again else None
    else:
        env.next_state_name = program.start_at.start_at_name
        env.states.reset(execution.input_data)

    def run() -> None:
        EvalComponent.eval(program, env)
        execution.exec_worker._execution_communication.terminated()

    threading.Thread(target=run, daemon=True, name=f"execution-{execution.name}").start()


def _is_entered(event: dict[str, Any]) -> bool:
    return "stateEnteredEventDetails" in event


def _reason(execution: Any) -> str:
    """Why it cannot be redriven, in the words of DescribeExecution's `redriveStatusReason` (API reference)."""
    if execution.exec_status in ENDED:
        return "Execution redrive period exceeded"
    return f"Execution is {execution.status} and cannot be redriven"


def _program_state(execution: Any) -> Any:
    status = execution.exec_status
    if status == ExecutionStatus.SUCCEEDED:
        return ProgramEnded()
    if status == ExecutionStatus.FAILED:
        return ProgramError(error={"error": execution.error, "cause": execution.cause})
    if status == ExecutionStatus.ABORTED:
        return ProgramStopped(execution.stop_date, execution.error, execution.cause)
    if status == ExecutionStatus.TIMED_OUT:
        return ProgramTimedOut()
    return ProgramRunning()


def _detached(machine: Any) -> Any:
    """A copy of a state machine, without the executions (which hold threads) and with its backend shared."""
    return copy.deepcopy(machine, {id(machine.executions): [], id(machine.backend): machine.backend})


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """JSON values only: dates as seconds since 1970, enumerations as their values, no empty fields."""

    def convert(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.timestamp()
        raise TypeError(f"{type(value).__name__} is no JSON value")

    known = {k: v for k, v in document.items() if v is not None}
    plain: dict[str, Any] = json.loads(json.dumps(known, default=convert))
    return plain


@lru_cache(maxsize=32)
def _client_at(endpoint: str, region: str, service: str, key: str, secret: str) -> Any:
    """A client like moto's own, which signs for a state machine's role."""
    seconds = TimeoutSeconds.DEFAULT_TIMEOUT_SECONDS
    return boto3.client(
        service,  # type: ignore[call-overload]
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(
            parameter_validation=False,
            retries={"total_max_attempts": 1},
            connect_timeout=seconds,
            read_timeout=seconds,
        ),
    )


def _client_for(region: str, service: str, state_credentials: StateCredentials) -> Any:
    """One client per service, role and port: moto makes one for every task, which took a quarter of a turn's time."""
    endpoint, key = f"http://localhost:{moto_server_port()}", role_name(state_credentials.role_arn)
    with _making:
        return _client_at(endpoint, region, service, key, secret_key(endpoint, key))


def _remember() -> None:
    """Definitions, paths and clients are made once: for every execution anew they took most of a turn's time.

    What a parse returns is not changed by evaluating it; retry counters are in the environment (`env.heap`).
    """
    for module in (lambda_eval_utils, state_task_service_dynamodb, state_task_service_sfn):
        module.boto_client_for = _client_for
    if not hasattr(AmazonStateLanguageParser.parse, "cache_info"):
        AmazonStateLanguageParser.parse = staticmethod(lru_cache(maxsize=64)(AmazonStateLanguageParser.parse))
        json_path.parse = lru_cache(maxsize=4096)(json_path.parse)


def _patch(additions: StepFunctions) -> None:
    """Put the nested start and the hooks into moto's classes; a second stack in one process takes them over."""
    _remember()
    start = botocore.session.get_session().get_service_model("stepfunctions").operation_model("StartExecution")
    original = getattr(StateTaskServiceSfn, "_stepgram_original", StateTaskServiceSfn._normalise_parameters)
    StateTaskServiceSfn._stepgram_original = original

    def normalise_parameters(
        self: Any, parameters: dict[str, Any], boto_service_name: Any = None, service_action_name: Any = None
    ) -> None:
        original(self, parameters, boto_service_name, service_action_name)
        self._to_boto_request(parameters, start.input_shape)

    def normalise_response(
        self: Any, response: dict[str, Any], boto_service_name: Any = None, service_action_name: Any = None
    ) -> None:
        for key, value in list(response.items()):
            del response[key]
            response[self._to_sfn_cased(key)] = value.isoformat() if isinstance(value, datetime) else value

    # moto leaves the parameter out; https://docs.aws.amazon.com/step-functions/latest/dg/connect-lambda.html has it.
    state_task_service_lambda._SUPPORTED_API_PARAM_BINDINGS["invoke"].add("InvocationType")
    StateTaskServiceSfn._normalise_parameters = normalise_parameters
    StateTaskServiceSfn._normalise_response = normalise_response
    StateTaskServiceSfn._get_boto_service_name = lambda self, boto_service_name=None: "stepfunctions"

    def terminated(self: Any) -> None:
        with additions._ending:
            if getattr(self.execution, "left_behind", False):
                return
            self._reflect_execution_status()
            additions._record(self.execution, status=True)
        additions.on_change(self.execution)

    BaseExecutionWorkerCommunication.terminated = terminated
    _tokens_as_on_aws()
    _patch_recording(additions)
    _patch_retry_count()
    for service, name in REFUSED.items():
        _name_refusals(service, name)
    matches = getattr(ErrorEqualsDecl, "_stepgram_original", ErrorEqualsDecl._eval_body)
    ErrorEqualsDecl._stepgram_original = matches

    def eval_body(self: Any, env: Any) -> None:
        if ErrorEqualsDecl._STATE_ALL_ERROR in self.error_names and env.stack[-1] in UNCATCHABLE:
            env.stack[-1] = False
        else:
            matches(self, env)

    ErrorEqualsDecl._eval_body = eval_body


def _tokens_as_on_aws() -> None:
    """Each try of a state has a token of its own, which is good from the moment its task is scheduled.

    With moto, all tries share one, so a second try gets the first one's answer; and a heartbeat, and with
    HeartbeatSeconds an answer, is heard only when the function that was called with the token has returned.
    """

    def notify_heartbeat(self: Any) -> bool:
        if self._heartbeat_endpoint:
            self._heartbeat_endpoint.notify()
        return True

    def setup_heartbeat_endpoint(self: Any, heartbeat_seconds: int) -> HeartbeatEndpoint:
        self._heartbeat_endpoint = HeartbeatEndpoint(heartbeat_seconds=heartbeat_seconds)
        if self._outcome is not None:
            self._heartbeat_endpoint.notify()
        return self._heartbeat_endpoint

    def eval_execution(self: Any, env: Any) -> None:
        if self._is_integration_pattern() and self.resource.condition == ResourceCondition.WaitForTaskToken:
            env.callback_pool_manager.add(env.states.context_object.update_task_token())
        StateTaskService._eval_execution(self, env)

    StateTaskServiceCallback._eval_execution = eval_execution
    CallbackEndpoint.notify_heartbeat = notify_heartbeat
    CallbackEndpoint.setup_heartbeat_endpoint = setup_heartbeat_endpoint


def _patch_recording(additions: StepFunctions) -> None:
    """Keep an execution when it starts, before it does anything, and each of its events before the next."""
    start = getattr(Execution, "_stepgram_start", Execution.start)
    add_event = getattr(EventManager, "_stepgram_add_event", EventManager.add_event)
    environment = getattr(ExecutionWorker, "_stepgram_environment", ExecutionWorker._get_evaluation_environment)
    Execution._stepgram_start, EventManager._stepgram_add_event = start, add_event
    ExecutionWorker._stepgram_environment = environment

    def kept_start(self: Any) -> None:
        self.exec_status = ExecutionStatus.RUNNING
        self.kept_events = 0
        additions._record(self, status=True)
        start(self)

    def environment_of_execution(self: Any) -> Any:
        env = environment(self)
        env.event_manager.execution = self._execution_communication.execution
        return env

    def kept_event(self: Any, *arguments: Any, **named: Any) -> int:
        number: int = add_event(self, *arguments, **named)
        try:
            additions._record(self.execution)
        except StateError as error:
            logger.error("an execution rests until the next start", execution=self.execution.name, cause=str(error))
            raise SystemExit from error  # ends this thread alone
        return number

    Execution.start = kept_start
    ExecutionWorker._get_evaluation_environment = environment_of_execution
    EventManager.add_event = kept_event


def _patch_retry_count() -> None:
    """A state that a restored execution enters again may have done its work: it is told so, as in a retry."""
    evaluate = getattr(ExecutionState, "_stepgram_evaluate", ExecutionState._evaluate_with_timeout)
    ExecutionState._stepgram_evaluate = evaluate

    def evaluate_with_timeout(self: Any, env: Any) -> None:
        if env.heap.pop(AGAIN, None) == self.name:
            env.states.context_object.context_object_data["State"]["RetryCount"] = 1
        evaluate(self, env)

    ExecutionState._evaluate_with_timeout = evaluate_with_timeout


def _name_refusals(service: Any, name: str) -> None:
    """Give a Task that was refused the name of its error on AWS; moto makes one of the error's code."""
    original = getattr(service, "_stepgram_from_error", service._from_error)
    service._stepgram_from_error = original

    def from_error(self: Any, env: Any, ex: Exception) -> FailureEvent:
        failure: FailureEvent = original(self, env, ex)
        if not isinstance(ex, ClientError) or ex.response["Error"]["Code"] != "AccessDeniedException":
            return failure
        details = {**failure.event_details["taskFailedEventDetails"], "error": name}
        return FailureEvent(
            env, CustomErrorName(name), failure.event_type, EventDetails(taskFailedEventDetails=details)
        )

    service._from_error = from_error
