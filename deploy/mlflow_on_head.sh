#!/usr/bin/env bash
# Starts MLflow on the head node, and a copy of its database every quarter of an hour; does nothing where it runs.
# cluster.yaml calls it. After a crash: ray exec cluster.yaml 'bash ~/depthflow/mlflow_on_head.sh'
set -euo pipefail
port=${MLFLOW_PORT:-5000}
database=$HOME/mlflow/mlflow.db
copy=s3://$DEPTHFLOW_BUCKET/mlflow/mlflow.db
if (echo > "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then exit 0; fi

# On a new disk the database comes back from its copy; one that is there is left alone.
~/venv/bin/python ~/depthflow/mlflow_database.py restore --database "$database" --copy "$copy"

# It answers to the names by which nodes, and a browser behind a forwarded port, call it.
ip=$(hostname -I | cut -d' ' -f1)
setsid nohup ~/venv/bin/mlflow server --host 0.0.0.0 --port "$port" --workers 2 \
    --backend-store-uri "sqlite:///$database" \
    --serve-artifacts --artifacts-destination "s3://$DEPTHFLOW_BUCKET/mlflow/artifacts" \
    --allowed-hosts "localhost:$port,127.0.0.1:$port,$ip:$port,$(hostname -f):$port" \
    > ~/mlflow/server.log 2>&1 < /dev/null &

exec 9> ~/mlflow/copies.lock
flock --nonblock 9 || exit 0
setsid nohup ~/venv/bin/python ~/depthflow/mlflow_database.py keep --database "$database" --copy "$copy" \
    --every-s 900 > ~/mlflow/copies.log 2>&1 < /dev/null &
