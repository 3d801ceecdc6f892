"""Names of the targets that come with diffgdn, known without importing one."""

BUILT_IN = ("vk", "kv", "eager", "fla")
