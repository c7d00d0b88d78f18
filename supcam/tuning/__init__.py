"""The Optuna study that finds margin and temperature. Optuna itself is imported only when a study is opened."""
