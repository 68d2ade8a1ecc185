"""The keys of `tianji_params` that are Bedrock's own, by the names that LiteLLM gave them.

Docs: https://docs.litellm.ai/docs/providers/bedrock#authentication---aws-credentials
"""

from tianji import PluginSettings, Secret


class BedrockSettings(PluginSettings, frozen=True):
    aws_region_name: str | None = None
    """Where the model runs. Else the region in the model's name or ARN, `AWS_REGION_NAME`, `AWS_REGION`,
    `AWS_DEFAULT_REGION`, `us-east-1`."""
    aws_access_key_id: Secret | None = None
    """With `aws_secret_access_key`: sign with this key."""
    aws_secret_access_key: Secret | None = None
    """The other half of `aws_access_key_id`."""
    aws_session_token: Secret | None = None
    """Of a temporary key."""
    aws_profile_name: str | None = None
    """Sign with the key, or as the role, of this profile in `~/.aws/credentials` and `~/.aws/config`."""
    aws_role_name: str | None = None
    """ARN of a role to assume, with whatever credentials are found otherwise."""
    aws_session_name: str = "tianji"
    """The role's session name, which CloudTrail shows."""
    aws_external_id: str | None = None
    """External id that the role's trust policy asks for."""
    aws_web_identity_token: Secret | None = None
    """With `aws_role_name`: an OIDC token, or the absolute path of a file that holds one."""
    aws_sts_endpoint: str | None = None
    """STS elsewhere than at `https://sts.<region>.amazonaws.com`."""
    aws_bedrock_runtime_endpoint: str | None = None
    """Bedrock elsewhere than at `https://bedrock-runtime.<region>.amazonaws.com`; comes before `api_base`."""
    model_id: str | None = None
    """Id or ARN to ask for in place of `model`, which then only says what kind of model it is."""
