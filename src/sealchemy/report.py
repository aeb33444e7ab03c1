"""The import path in pickles of version 0.1."""

from ._rewriting.report import Failure, Progress, Report

__all__ = ["Failure", "Progress", "Report"]
