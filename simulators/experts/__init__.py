"""Scripted experts that solve tasks from ground-truth poses, and the recorder that turns them into demos."""
