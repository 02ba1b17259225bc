"""HTTP in, answers out: who asks is known first (security), a failure is a problem (problems).

headers ── gate ──┬── what is kept, a page at a time       things, versions, events
                  ├── the audit's questions                questions
                  ├── what a person may do                 acts
                  ├── what a version says of windows       predict
                  └── is it there, and how does it stand   health
"""
