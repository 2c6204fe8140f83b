"""Tests of the ComfyUI nodes."""
