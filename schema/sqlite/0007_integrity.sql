-- What integrity checks read of a log: a session's judged entries without those between, and lists by verdict.

CREATE INDEX integrity_checkpoints_judged ON integrity_checkpoints (agent_id, session_id, verdict, chain_position);

-- Counts verdicts as the index before it did, and has the rows of a verdict in the order of the log.
CREATE INDEX integrity_checkpoints_verdicts ON integrity_checkpoints (agent_id, verdict, merkle_leaf_index);
DROP INDEX integrity_checkpoints_verdict;
