"""Has `mlflow run .` and a bare `mlflow.start_run()` use the experiment of the project instead of "Default".

MLflow finds it by the entry point ``mlflow.default_experiment_provider`` of ``pyproject.toml``. It asks only where
neither an option nor a variable names an experiment.
"""

from supcam.errors import SupcamError
from supcam.tracking.project import project_root, tracking_uri
from supcam.tracking.store import open_client, project_experiment


class ProjectExperiment:
    """What MLflow asks: whether this is a project whose store it uses, and the id of its experiment."""

    def in_context(self) -> bool:
        """Whether the working directory is in a project, and MLflow's tracking address is the project's."""
        import mlflow

        try:
            return bool(mlflow.get_tracking_uri() == tracking_uri(project_root()))
        except SupcamError:
            return False

    def get_experiment_id(self) -> str:
        """Id of the project's experiment, which is made if it is missing."""
        root = project_root()
        return project_experiment(open_client(root), root)
