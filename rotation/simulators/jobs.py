"""Jobs that belong to the key that made them."""

import threading
from dataclasses import dataclass
from uuid import uuid4

from rotation.simulators.truth import Key


@dataclass
class Job:
    """One job; it is done when it has been asked for twice."""

    id: str
    key_id: str
    polls: int = 0


class Jobs:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def open(self, key: Key) -> Job:
        """Start a job."""
        job = Job(uuid4().hex, key.id)
        with self._lock:
            self._jobs[job.id] = job
        return job

    def poll(self, job_id: str, key: Key) -> str | None:
        """Say processing, then completed; None for a job that does not exist or was made with another key."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.key_id != key.id:
                return None
            job.polls += 1
            return "completed" if job.polls > 1 else "processing"
