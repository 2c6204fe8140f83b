"""Examples of complete requests and responses for the OpenAPI description.

tests/service/api/test_openapi.py checks them against the models.
"""

from __future__ import annotations

from typing import Any

_ID = "job_01M83RX3VC8P4W7YY66EW4G7A8"
_FILES = ("video.mp4", "audio.wav", "poster.webp", "spectrogram.png", "manifest.json")

JOB: dict[str, Any] = {
    "id": _ID,
    "kind": "v2a",
    "status": "completed",
    "model": "demo",
    "stage": None,
    "step": None,
    "total_steps": None,
    "progress": 1.0,
    "queue_position": None,
    "waiting_for": None,
    "eta_seconds": None,
    "created_at": "2026-11-23T09:41:07.250000Z",
    "started_at": "2026-11-23T09:41:07.610000Z",
    "completed_at": "2026-11-23T09:41:16.950000Z",
    "expires_at": "2026-11-30T09:41:07.250000Z",
    "cancel_requested_at": None,
    "retried_from": None,
    "attempt": 1,
    "params": {
        "seed": 7,
        "num_outputs": 1,
        "duration": 7.8,
        "sampler": "dpmpp_2m",
        "steps": 20,
        "spacing": "log_snr",
        "guidance": "clean",
        "start": 0.0,
        "priority": "normal",
    },
    "input": {
        "filename": "beach.mov",
        "bytes": 834563,
        "sha256": "3bd1f6ef4dbbc2e33b5a0de8e8c3e8d4ad1c0bd6b6c7e2a1e7b3f2c1d0a99887",
        "duration": 7.8,
        "video": {"width": 320, "height": 240, "fps": 30.0},
        "audio": {"sample_rate": 44100, "channels": 2},
        "used": {"start": 0.0, "duration": 7.8, "tracks": [0], "notice": None},
    },
    "outputs": [
        {
            "index": 0,
            "seed": 7,
            "scores": {"sync": 0.8, "av_align": 0.5, "lag": 0.0},
            "files": {name: f"/jobs/{_ID}/files/{name}" for name in _FILES},
        }
    ],
    "dropped": [],
    "error": None,
    "timings": {"queued": 0.1, "decode": 0.2, "base": 8.6, "sr": 0.0, "encode": 0.3, "upload": 0.1},
    "metadata": {"project": "seaside"},
    "webhook": {
        "url": "https://example.com/hook",
        "events": ["completed", "failed"],
        "deliveries": [
            {
                "at": "2026-11-23T09:41:17.100000Z",
                "event": "completed",
                "attempt": 1,
                "status": 204,
                "error": None,
                "next_attempt_at": None,
            }
        ],
    },
    "urls": {
        "self": f"/jobs/{_ID}",
        "cancel": f"/jobs/{_ID}/cancel",
        "retry": f"/jobs/{_ID}/retry",
        "events": f"/jobs/{_ID}/events",
        "input": f"/jobs/{_ID}/files/input.mov",
    },
}

JOBS: dict[str, Any] = {"data": [JOB], "has_more": True, "next": _ID}

MODELS: dict[str, Any] = {
    "data": [
        {
            "name": "demo",
            "default": True,
            "trained": True,
            "description": "Bouncing discs that make a sound when they hit a wall.",
            "licence": "MIT",
            "clip": {"frames": 16, "fps": 10, "height": 16, "width": 16, "sample_rate": 8000, "duration": 1.6},
            "max_duration": 60,
            "resolutions": [
                {"width": 16, "height": 16, "super_resolution": False},
                {"width": 128, "height": 128, "super_resolution": True},
            ],
            "samplers": ["dpmpp_2m", "dpmpp_3m", "dpm_solver", "unipc", "ddim", "ddpm", "tuned"],
            "qualities": {
                "fast": {"steps": 6, "sr_steps": 3},
                "balanced": {"steps": 10, "sr_steps": 4},
                "best": {"steps": 20, "sr_steps": 8},
            },
            "tuned": {"generate": [4, 6, 8, 10], "v2a clean": [6, 10], "a2v clean": [6, 10], "sr": [2, 3, 4]},
            "distances": {
                "generate": {
                    "tuned 6": {"video": 0.197, "audio": 0.285},
                    "dpmpp_2m 6": {"video": 0.381, "audio": 0.482},
                    "dpmpp_2m 20": {"video": 0.111, "audio": 0.114},
                }
            },
            "guidance": {
                "generate": ["decoupling"],
                "v2a": ["clean", "pigdm", "replacement", "gradient", "gradient_code", "decoupling"],
                "a2v": ["clean", "pigdm", "replacement", "gradient", "gradient_code", "decoupling"],
                "edit": ["replacement", "pigdm", "decoupling", "clean"],
            },
            "independent_timesteps": True,
            "text": {
                "encoder": "wordllama",
                "languages": ["en"],
                "examples": ["a heavy thunderstorm at night, lightning close by", "gentle rain by day"],
                "prompt_scale": 3.0,
                "guided_share": 1.0,
            },
            "speed": {"v2a": {"step": 0.085, "sr_step": None, "files": 0.4}},
            "weights_hash": "0f6c1d2e3b4a59687786a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0",
        }
    ]
}

RELOAD: dict[str, Any] = {
    "added": ["landscape"],
    "changed": ["scenes"],
    "removed": [],
    "generation": 3,
    "workers": 2,
}

PROBLEM: dict[str, Any] = {
    "type": "about:blank",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "Invalid value: steps.",
    "instance": "/generate",
    "code": "invalid_parameter",
    "request_id": "6f1f9b0c4c0f4f6f9d7f2a6f0f8a7a52",
    "errors": [{"field": "steps", "got": 0, "allowed": "an integer 1 … 1000"}],
}

VIDEO: dict[str, Any] = {
    "id": _ID.replace("job_", "video_"),
    "object": "video",
    "status": "completed",
    "model": "demo",
    "progress": 100,
    "created_at": 1795426867,
    "completed_at": 1795426876,
    "expires_at": 1796031667,
    "seconds": "1.6",
    "size": "128x128",
    "prompt": None,
    "remixed_from_video_id": None,
    "error": None,
    "seed": 7,
    "inference_time_s": 9.34,
    "stage_durations": {"queued": 0.1, "decode": 0.0, "base": 6.2, "sr": 2.4, "encode": 0.3, "upload": 0.1},
}

VIDEOS: dict[str, Any] = {
    "object": "list",
    "data": [VIDEO],
    "has_more": False,
    "first_id": VIDEO["id"],
    "last_id": VIDEO["id"],
}

VIDEO_DELETED: dict[str, Any] = {"id": VIDEO["id"], "object": "video.deleted", "deleted": True}

VIDEOS_ERROR: dict[str, Any] = {
    "error": {
        "message": "Invalid value: seconds. seconds: a number 0.1 … 600.",
        "type": "invalid_request_error",
        "param": "seconds",
        "code": "invalid_parameter",
    }
}

HEALTH: dict[str, Any] = {"status": "ok"}

GENERATE: dict[str, dict[str, Any]] = {
    "clip": {"summary": "One clip, reproducible by its seed", "value": {"seed": 7}},
    "drafts": {
        "summary": "Four quick drafts",
        "value": {"num_outputs": 4, "quality": "fast", "super_resolution": False, "metadata": {"project": "seaside"}},
    },
    "words": {
        "summary": "What a prompt says, where the model knows words",
        "value": {"prompt": "a heavy thunderstorm at night, lightning close by", "negative_prompt": "wind"},
    },
    "best": {
        "summary": "The best two of eight by the agreement of sound and picture",
        "value": {"num_outputs": 8, "keep": 2},
    },
    "published": {
        "summary": "Sampler and steps of the published scripts",
        "value": {"seed": 7, "sampler": "dpm_solver", "order": 3, "steps": 20, "sr_sampler": "ddim", "sr_steps": 25},
    },
}
"""Bodies of `POST /generate`, by purpose."""

STUDY_TOKEN = "Zl3v0cXq1T8m4kYw9aPr7sBn2dGh5jLe6uXo0iCt1Rk"

STUDY_VOTE: dict[str, Any] = {"video": 4, "sound": 3, "match": 5, "real": True, "revision": 1}

STUDY_SESSION: dict[str, Any] = {
    "clips": [{"id": "5f0c9a7e1b3d4286a1c7e9f0b2d4e6a8", "vote": STUDY_VOTE}],
    "submitted": False,
}

REPORT: dict[str, Any] = {
    "credentials": "untrusted",
    "generated": "part",
    "made_by": "Duet 0.1.0",
    "signed_by": "Duet: this installation",
    "signed_at": None,
    "model": {
        "name": "demo",
        "weights_sha256": "c0c3e8026b724b5d99393746843307b140a2ff30d7d622aea1b1639e9816ca34",
    },
    "actions": [
        {"action": "c2pa.opened", "source_type": None, "description": None, "when": None},
        {
            "action": "c2pa.edited",
            "source_type": "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
            "description": "The sound is made by the model",
            "when": None,
        },
    ],
    "ingredients": [{"title": "upload", "media_type": "video/mp4", "relationship": "parentOf", "credentials": "none"}],
    "problems": ["signingCredential.untrusted"],
    "comment": "Generated by Duet (v2a): model demo, seed 5, output 0",
}
