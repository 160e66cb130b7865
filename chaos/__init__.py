"""Campaigns against the two promises: nobody is dialled twice, no result is lost (docs/reliability.md).

`python -m chaos` kills everything at random under load; `python -m chaos.every_await` kills at every suspension point.
"""
