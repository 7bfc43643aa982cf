"""The Ray that trials run on: joining one, its nodes, autoscalers, and shares between studies."""
