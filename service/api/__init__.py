"""HTTP at the edge: one file a resource. Everything a client can send is judged here, before a job exists."""
