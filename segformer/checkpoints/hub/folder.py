"""Models of the Hub as folders: those of huggingface_hub's own cache on this machine.

Knows files by their names; knows no weights and no job.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from huggingface_hub import (
    HfApi,
    ModelInfo,
    constants,
    get_cached_repo_tree,
    hf_hub_download,
    hf_hub_url,
    resolve_revision,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    FileMetadataError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import repo_folder_name

from segformer.checkpoints.folder import CONFIG, ENDINGS, Folder, without_credentials
from segformer.checkpoints.hub.calls import asking, endpoint, is_offline
from segformer.checkpoints.hub.name import HubName
from segformer.errors import CheckpointError

TIMEOUT_S = 10.0
"""For the first request, which tells whether the Hub can be reached; huggingface_hub's own for
others."""


class HubFolder(Folder):
    """A model's folder in the cache, at one commit. Files get into it when they are read."""

    def __init__(self, name: HubName) -> None:
        """Raises what `resolve` raises."""
        self.name, _ = resolve(name)
        model = repo_folder_name(repo_id=self.name.repo, repo_type="model")
        cache = Path(constants.HF_HUB_CACHE).expanduser().resolve()
        folder = cache / model / "snapshots" / str(self.name.revision)
        super().__init__(str(folder), None, shown_url=str(self.name))
        self._answered = False

    def read(self, name: str, end: int | None = None) -> bytes | None:
        self._fetch(name)
        return super().read(name, end)

    def read_if_allowed(self, name: str) -> bytes | None:
        try:
            return self.read(name)
        except CheckpointError:  # without network nobody knows whether the model has the file
            return None

    def why_no_checkpoint(self) -> str:
        try:
            with asking(self.name):
                files = [file.rfilename for file in _info(self.name).siblings or ()]
        except CheckpointError:
            files = []
        why = f"{self.shown_url} has no {CONFIG}"
        weights = sorted(file for file in files if file.endswith(ENDINGS))
        if not weights:
            return f"{why}; give a model that transformers' save_pretrained has written"
        url = hf_hub_url(self.name.repo, weights[0], revision=self.name.revision)
        return f"{why}; give one of its files, e.g. {without_credentials(url)}"

    def _fetch(self, file: str) -> None:
        """Get a file into the cache, if it is not there and the commit has it."""
        repo, commit = self.name.repo, self.name.revision
        # A path, or a mark that the commit has no such file.
        if try_to_load_from_cache(repo, file, revision=commit) is not None:
            return
        with asking(self.name):
            try:
                if not self._answered:
                    _info(self.name)
                    self._answered = True
                hf_hub_download(repo, file, revision=commit)
            except RemoteEntryNotFoundError:
                pass  # huggingface_hub leaves the mark
            except Exception as error:
                if not (is_offline(error) and _is_known_absent(self.name, file)):
                    raise


def resolve(name: HubName) -> tuple[HubName, str | None]:
    """The model at the commit that its revision stands for, and a note if it cannot be asked: then
    it is the commit for which it stood last.

    Raises CheckpointError if the Hub has no such model or revision for us, UnavailableError if it
    does not answer.
    """
    if name.is_pinned:
        return name, None
    with asking(name):
        try:
            info = _info(name)
        except Exception as error:
            if not is_offline(error):
                raise
            pinned = name.at(_last_commit(name, error))
            return pinned, None if constants.is_offline_mode() else _taken_as_last(name, pinned)
        with suppress(RemoteEntryNotFoundError):
            # With a file huggingface_hub keeps the commit, for times without network.
            hf_hub_download(name.repo, CONFIG, revision=name.revision)
        return name.at(str(info.sha)), None


def _info(name: HubName) -> ModelInfo:
    """What the Hub says of the model. The first request, for huggingface_hub sends it only once if
    nobody answers."""
    try:
        return HfApi().model_info(name.repo, revision=name.revision, timeout=TIMEOUT_S)
    except HFValidationError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # no JSON, or another one
        raise FileMetadataError(str(error)) from error


def _last_commit(name: HubName, error: Exception) -> str:
    """The commit that the revision stood for when the Hub was asked last. Raises the error if it
    never was."""
    try:
        return resolve_revision(name.repo, revision=name.revision, local_files_only=True).resolved
    except RevisionResolutionError:
        raise error from None


def _is_known_absent(name: HubName, file: str) -> bool:
    """Whether a list of the commit's files, as `hf download` leaves it in the cache, lacks one."""
    try:
        files = get_cached_repo_tree(name.repo, revision=name.revision)
    except CachedRepoTreeNotFoundError:
        return False
    return file not in {entry.path for entry in files}


def _taken_as_last(name: HubName, pinned: HubName) -> str:
    return (
        f"{endpoint()} does not answer: {name} is taken as {pinned}, for which it stood when it was"
        " last asked from here"
    )
