"""polmrs: LLM post-training in one small library.

Importing polmrs imports neither torch nor numpy; a name is loaded when it is first used.
"""
