"""Weights from elsewhere, in and out, each conversion proved or refused."""
