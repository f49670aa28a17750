"""What `p3d data check` may say of a video."""

# What makes a video unusable -> what it means.
UNUSABLE = {
  "unfinished": "a download that was not finished",
  "empty": "0 bytes",
  "unreadable": "the system does not let it be read",
  "not a video": "no format that FFmpeg opens",
  "no video": "sound only, or nothing at all",
  "truncated": "the end is missing",
  "broken": "frames of it cannot be decoded, or are damaged",
  "hangs": "its decoding made no progress and was killed",
  "crashes": "its decoding took the process with it",
}
# What can be used, and may not be wanted -> what it means.
WARNINGS = {
  "too short": "fewer frames than --min-frames",
  "odd frame rate": "below 5 or above 120 frames a second, more than 5 % of "
  "the frames stay longer or shorter than half as long again as the median "
  "one, or one stays more than 4 times as long",
}
# A video has one of these: the first that holds.
STATUSES = (*UNUSABLE, *WARNINGS, "ok")
