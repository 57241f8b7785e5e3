"""The settings of the queue: Redis, and how long jobs and workers last."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from mead.queue.client import check_redis_url
from mead.queue.prefix import check_prefix
from mead.setting_checks import check_hash_tag


class QueueSettings(BaseSettings):
    """The first of the settings; see `mead.settings.ServiceSettings`."""

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    redis_url: Annotated[str, AfterValidator(check_redis_url)] = Field(
        "redis://127.0.0.1:6379/0", description="URL of Redis, including its password if any."
    )
    redis_prefix: Annotated[str, AfterValidator(check_prefix), AfterValidator(check_hash_tag)] = Field(
        "",
        validate_default=True,
        description="Prefix of every key in Redis, as in mead:; in a Redis Cluster with a hash tag: {mead}:.",
    )
    redis_wait_replicas: int = Field(
        0, ge=0, description="Number of replicas of Redis that must have a job before it is accepted."
    )
    job_ttl: int = Field(
        24 * 3600, ge=1, description="Seconds that the record and result of an ended job are kept."
    )
    latents_ttl: int = Field(
        3600,
        ge=0,
        description="Seconds after its end for which a job can go on (`from`): its latents and uploads are "
        "kept, at most as long as its record. 0: never.",
    )
    job_attempts: int = Field(
        3, ge=1, description="Number of times a job is started before it fails because its workers died."
    )
    max_job_seconds: int = Field(
        3600,
        ge=0,
        description="Maximum seconds a job may run before it fails; 0 for no limit.",
    )
    worker_ttl: int = Field(
        15, ge=1, description="Seconds after its last heartbeat for which a worker counts as alive."
    )
