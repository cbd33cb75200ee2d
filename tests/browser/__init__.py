"""Tests in Chromium, of the pages and of sockjs-client."""
