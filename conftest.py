"""Top of the test tree. The plugin itself is installed by the package (entry point ``lifecycle``)."""

pytest_plugins = ["pytester"]  # the selftests run pytest inside pytest
