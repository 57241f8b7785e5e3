"""Webhooks: what clients ask for, and how one is signed and sent.

`mead.queue.outbox` holds those that are to be sent, `mead.worker.webhooks` sends them.
"""
