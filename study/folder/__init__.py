"""The study folder from the writer's side: which trials it holds, what study.json says, what is mended."""
