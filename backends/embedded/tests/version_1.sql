-- A database as the first release wrote it (schema version 1), by its own `up`; an order and a report wait in it.
PRAGMA application_id = 1400403054;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE alert_states (
    grp TEXT NOT NULL, job TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (grp, job)
);
INSERT INTO "alert_states" VALUES('db','fails',1,'{"status":"bad","kind":"failed","streak":1,"since":"2026-11-24T01:41:57.714430724Z","told_at":"2026-11-24T01:41:57.714430724Z","changes":["2026-11-24T01:41:57.714430724Z"],"flapping":false,"steady":0}');
CREATE TABLE beats (runner TEXT NOT NULL PRIMARY KEY, at INTEGER NOT NULL, body TEXT NOT NULL);
INSERT INTO "beats" VALUES('vm',1795484519034516274,'{"runner":"vm","host":"vm","groups":[],"at":"2026-11-24T01:41:59.034516274Z","running":1,"version":"0.1.0"}');
CREATE TABLE due (
    at INTEGER NOT NULL, grp TEXT NOT NULL, name TEXT NOT NULL, timing TEXT NOT NULL,
    PRIMARY KEY (at, grp, name, timing)
) WITHOUT ROWID;
INSERT INTO "due" VALUES(1795570200000000000,'db','nightly-dump','e6fee9913695aced');
CREATE TABLE jobs (
    grp TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (grp, name)
);
INSERT INTO "jobs" VALUES('db','fails',1,'{"group":"db","name":"fails","schedule":"@manually","zone":"UTC","command":"echo no; exit 3","enabled":true,"kill_grace":"10s","concurrency":"allow","catch_up":"skip","success_exit_codes":[0],"needs":{"cpu":0.0,"memory":"0"},"rules":["auto"],"alert":{"after":1},"anchor":"2026-11-24T01:41:33Z","source":"/etc/sexton/jobs.toml"}');
INSERT INTO "jobs" VALUES('db','long',1,'{"group":"db","name":"long","schedule":"@manually","zone":"UTC","command":"echo waits; sleep 30","enabled":true,"kill_grace":"10s","concurrency":"allow","catch_up":"skip","success_exit_codes":[0],"needs":{"cpu":0.0,"memory":"0"},"rules":["auto"],"alert":{"after":1},"anchor":"2026-11-24T01:41:33Z","source":"/etc/sexton/jobs.toml"}');
INSERT INTO "jobs" VALUES('db','nightly-dump',1,'{"group":"db","name":"nightly-dump","schedule":"30 2 * * *","zone":"Europe/Paris","command":"echo begins; echo warns >&2; echo ends","enabled":true,"kill_grace":"10s","concurrency":"allow","catch_up":"once","success_exit_codes":[0],"retries":{"max":1,"delay":"1m","backoff":2.0,"on":["failed"]},"needs":{"cpu":0.0,"memory":"0"},"rules":["auto"],"alert":{"after":1},"anchor":"2026-11-24T01:41:33Z","source":"/etc/sexton/jobs.toml"}');
CREATE TABLE orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, grp TEXT NOT NULL, ready INTEGER NOT NULL,
    parked INTEGER NOT NULL DEFAULT 0, body TEXT NOT NULL
);
INSERT INTO "orders" VALUES(5,'20261124T014158Z-3b6b8d69d3a9:1','db',0,0,'{"version":1,"run_id":"20261124T014158Z-3b6b8d69d3a9","attempt":1,"nominal":"2026-11-24T01:41:58Z","trigger":"manual","issued_at":"2026-11-24T01:41:58.077398079Z","start_by":"2026-11-25T01:41:58.077398079Z","job":{"group":"db","name":"long","schedule":"@manually","zone":"UTC","command":"echo waits; sleep 30","enabled":true,"kill_grace":"10s","concurrency":"allow","catch_up":"skip","success_exit_codes":[0],"needs":{"cpu":0.0,"memory":"0"},"rules":["auto"],"alert":{"after":1},"anchor":"2026-11-24T01:41:33Z","source":"/etc/sexton/jobs.toml"}}');
CREATE TABLE reports (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, grp TEXT NOT NULL, ready INTEGER NOT NULL,
    parked INTEGER NOT NULL DEFAULT 0, body TEXT NOT NULL
);
INSERT INTO "reports" VALUES(8,'20261124T014157Z-d204fb4c55a0:1:finished','db',0,0,'{"version":1,"run_id":"20261124T014157Z-d204fb4c55a0","group":"db","job":"nightly-dump","attempt":1,"nominal":"2026-11-24T01:41:57Z","trigger":"manual","runner":"vm","host":"vm","at":"2026-11-24T01:41:57.877396602Z","event":"finished","ended":"exited","exit_code":0,"signal":null,"started_at":"2026-11-24T01:41:57.874565095Z","finished_at":"2026-11-24T01:41:57.877396602Z","duration_ms":2,"stdout_lines":2,"stderr_lines":1,"stdout_bytes":12,"stderr_bytes":6,"last_seq":3,"dropped_lines":0,"dropped_bytes":0,"cpu_ms":0,"max_rss_bytes":3768320,"leaked":[],"rules":[],"rules_digest":"624a75f179ceb564","excerpt":[{"seq":1,"stream":"stdout","text":"begins"},{"seq":2,"stream":"stdout","text":"ends"},{"seq":3,"stream":"stderr","text":"warns"}],"outcome":"succeeded","reason":"exit code 0"}');
CREATE TABLE runs (
    run_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, grp TEXT NOT NULL, job TEXT NOT NULL,
    open INTEGER NOT NULL, outcome TEXT, runner TEXT, stopping INTEGER NOT NULL, body TEXT NOT NULL
);
INSERT INTO "runs" VALUES('20261124T014139Z-5f3ae5f4109c',4,'db','nightly-dump',0,'succeeded','vm',0,'{"run_id":"20261124T014139Z-5f3ae5f4109c","group":"db","job":"nightly-dump","nominal":"2026-11-24T01:41:39Z","trigger":"manual","attempt":1,"state":"finished","outcome":"succeeded","reason":"exit code 0","exit_code":0,"signal":null,"runner":"vm","host":"vm","scheduled_at":"2026-11-24T01:41:39.93995828Z","claimed_at":"2026-11-24T01:41:39.941972531Z","started_at":"2026-11-24T01:41:39.975844138Z","finished_at":"2026-11-24T01:41:39.976457003Z","duration_ms":0,"stdout_lines":2,"stderr_lines":1,"stdout_bytes":12,"stderr_bytes":6,"last_seq":3,"dropped_lines":0,"cpu_ms":1,"max_rss_bytes":3354624,"leaked":[],"rules":[],"judged_on":"all","excerpt":[{"seq":1,"stream":"stdout","text":"begins"},{"seq":2,"stream":"stdout","text":"ends"},{"seq":3,"stream":"stderr","text":"warns"}],"start_by":"2026-11-25T01:41:39.93995828Z"}');
INSERT INTO "runs" VALUES('20261124T014157Z-9e5f1421671f',4,'db','fails',0,'failed','vm',0,'{"run_id":"20261124T014157Z-9e5f1421671f","group":"db","job":"fails","nominal":"2026-11-24T01:41:57Z","trigger":"manual","attempt":1,"state":"finished","outcome":"failed","reason":"exit code 3","exit_code":3,"signal":null,"runner":"vm","host":"vm","scheduled_at":"2026-11-24T01:41:57.646266623Z","claimed_at":"2026-11-24T01:41:57.648803529Z","started_at":"2026-11-24T01:41:57.698444671Z","finished_at":"2026-11-24T01:41:57.703595588Z","duration_ms":5,"stdout_lines":1,"stderr_lines":0,"stdout_bytes":3,"stderr_bytes":0,"last_seq":1,"dropped_lines":0,"cpu_ms":1,"max_rss_bytes":3649536,"leaked":[],"rules":[],"judged_on":"all","excerpt":[{"seq":1,"stream":"stdout","text":"no"}],"start_by":"2026-11-25T01:41:57.646266623Z"}');
INSERT INTO "runs" VALUES('20261124T014157Z-d204fb4c55a0',4,'db','nightly-dump',0,'succeeded','vm',0,'{"run_id":"20261124T014157Z-d204fb4c55a0","group":"db","job":"nightly-dump","nominal":"2026-11-24T01:41:57Z","trigger":"manual","attempt":1,"state":"finished","outcome":"succeeded","reason":"exit code 0","exit_code":0,"signal":null,"runner":"vm","host":"vm","scheduled_at":"2026-11-24T01:41:57.861937387Z","claimed_at":"2026-11-24T01:41:57.864020366Z","started_at":"2026-11-24T01:41:57.874565095Z","finished_at":"2026-11-24T01:41:57.877396602Z","duration_ms":2,"stdout_lines":2,"stderr_lines":1,"stdout_bytes":12,"stderr_bytes":6,"last_seq":3,"dropped_lines":0,"cpu_ms":0,"max_rss_bytes":3768320,"leaked":[],"rules":[],"judged_on":"all","excerpt":[{"seq":1,"stream":"stdout","text":"begins"},{"seq":2,"stream":"stdout","text":"ends"},{"seq":3,"stream":"stderr","text":"warns"}],"start_by":"2026-11-25T01:41:57.861937387Z"}');
INSERT INTO "runs" VALUES('20261124T014158Z-3b6b8d69d3a9',3,'db','long',1,NULL,'vm',0,'{"run_id":"20261124T014158Z-3b6b8d69d3a9","group":"db","job":"long","nominal":"2026-11-24T01:41:58Z","trigger":"manual","attempt":1,"state":"running","outcome":null,"reason":null,"exit_code":null,"signal":null,"runner":"vm","host":"vm","scheduled_at":"2026-11-24T01:41:58.077398079Z","claimed_at":"2026-11-24T01:41:58.078742108Z","started_at":"2026-11-24T01:41:58.087036073Z","finished_at":null,"duration_ms":null,"stdout_lines":0,"stderr_lines":0,"stdout_bytes":0,"stderr_bytes":0,"last_seq":0,"dropped_lines":0,"cpu_ms":null,"max_rss_bytes":null,"leaked":[],"rules":[],"judged_on":null,"start_by":"2026-11-25T01:41:58.077398079Z"}');
CREATE TABLE set_aside (
    kind TEXT NOT NULL, key TEXT NOT NULL, why TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
);
CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL);
INSERT INTO "settings" VALUES('boot',2,'{"boot_id":"32cdb2d9-0bc9-47e6-9547-606bffa67b14","booted_at":"2026-11-23T23:59:55Z","done":true}');
INSERT INTO "settings" VALUES('scheduler',6,'{"ticked_at":"2026-11-24T01:42:00.002103876Z","cursor":"2026-11-24T01:42:00.002103876Z"}');
INSERT INTO "settings" VALUES('pruner',1,'{"after":null}');
INSERT INTO "settings" VALUES('overdue',1,'{"ticked_at":"2026-11-24T01:41:34.022295913Z","watching_since":"2026-11-24T01:41:34.022295913Z"}');
INSERT INTO "settings" VALUES('sweep',1,'{"swept_at":"2026-11-24T01:41:34.022295913Z"}');
INSERT INTO "settings" VALUES('alert_rate',1,'{"minute":29924741,"messages":1,"digests":0}');
CREATE TABLE transitions (
    id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL, pending INTEGER NOT NULL, ready INTEGER NOT NULL,
    worker TEXT, body TEXT NOT NULL
);
INSERT INTO "transitions" VALUES('20261124T014157Z-9e5f1421671f:1:failed',1795484517714430724,0,1795484517714430724,NULL,'{"id":"20261124T014157Z-9e5f1421671f:1:failed","kind":"failed","group":"db","job":"fails","run_id":"20261124T014157Z-9e5f1421671f","nominal":"2026-11-24T01:41:57Z","outcome":"failed","reason":"exit code 3","at":"2026-11-24T01:41:57.714430724Z","since":"2026-11-24T01:41:57.714430724Z","count":1,"channels":[],"not_before":"2026-11-24T01:41:57.714430724Z","fate":"told","tries":0,"told":["log"]}');
CREATE INDEX runs_by_job ON runs (grp, job, run_id);
CREATE INDEX runs_open ON runs (grp, job, run_id) WHERE open = 1;
CREATE INDEX runs_stopping ON runs (runner) WHERE stopping = 1;
CREATE INDEX runs_by_outcome ON runs (outcome, run_id) WHERE outcome <> 'succeeded';
CREATE INDEX transitions_by_time ON transitions (at, id);
CREATE INDEX transitions_pending ON transitions (ready) WHERE pending = 1;
CREATE INDEX orders_ready ON orders (ready) WHERE parked = 0;
CREATE INDEX reports_ready ON reports (ready) WHERE parked = 0;
COMMIT;
