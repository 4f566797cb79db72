# Executes requests from standard input, one JSON object a line, and prints the answers in the same form. Started by
# `Boto` (boto.rs). In parameters, {"$base64": "..."} means bytes, and {"$zip": {"NAME": "TEXT"}} an archive of
# executable files.
import base64, io, json, sys, zipfile

import boto3, botocore.config, botocore.exceptions, yaml


class Template(yaml.SafeLoader):
    pass


def function(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else "Fn::" + suffix: value}


Template.add_multi_constructor("!", function)


def archive(files):
    bytes_of = io.BytesIO()
    with zipfile.ZipFile(bytes_of, "w") as file:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            file.writestr(entry, text)
    return bytes_of.getvalue()


def parameters(value):
    if isinstance(value, list):
        return [parameters(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "$base64" in value:
        return base64.b64decode(value["$base64"])
    if "$zip" in value:
        return archive(value["$zip"])
    return {name: parameters(one) for name, one in value.items()}


def plain(value):
    if hasattr(value, "read"):
        value = value.read()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


clients = {}


def client(asked):
    key = (asked["service"], asked["key"])
    if key not in clients:
        clients[key] = boto3.client(
            asked["service"], endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id=asked["key"],
            aws_secret_access_key=asked["secret"], aws_session_token=asked.get("token"),
            config=botocore.config.Config(retries={"max_attempts": 0}, parameter_validation=False))
    return clients[key]


def decision(asked):
    from ministack.core.iam_evaluator import EvalContext, evaluate, parse_policy_document
    context = EvalContext(
        principal_arn="arn:aws:sts::111111111111:assumed-role/role/session", principal_type="AssumedRole",
        principal_account="111111111111", action=asked["action"], resource_arn=asked["resource"], region="us-east-1",
        service_context={name.lower(): value for name, value in asked["keys"].items()})
    return evaluate(context, [parse_policy_document(policy) for policy in asked["policies"]]).decision


def answer(asked):
    if "yaml" in asked:
        return {"answer": yaml.load(asked["yaml"], Loader=Template)}
    if "policies" in asked:
        return {"answer": decision(asked)}
    try:
        return {"answer": getattr(client(asked), asked["action"])(**parameters(asked["parameters"]))}
    except botocore.exceptions.ClientError as error:
        return {"error": {"code": error.response["Error"].get("Code", ""), "message": str(error)}}
    except botocore.exceptions.BotoCoreError as error:
        return {"error": {"code": type(error).__name__, "message": str(error)}}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line)), default=plain), flush=True)
