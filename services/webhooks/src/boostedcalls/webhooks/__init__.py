"""The webhooks service: the provider's reports, without secrets, in the stream before they are answered."""
