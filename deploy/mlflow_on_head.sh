#!/usr/bin/env bash
# Starts MLflow on the head node, and a copy of its database every quarter of an hour; does nothing where it runs.
# cluster.yaml calls it. After a crash: ray exec cluster.yaml 'bash ~/depthflow/mlflow_on_head.sh'
set -euo pipefail
if (echo > /dev/tcp/127.0.0.1/5000) 2> /dev/null; then exit 0; fi
copy=s3://$DEPTHFLOW_BUCKET/mlflow/mlflow.db

# On a new disk the database comes back from its copy; one that is there is left alone.
~/venv/bin/python ~/depthflow/mlflow_database.py restore --database ~/mlflow/mlflow.db --copy "$copy"

# It answers to the names by which nodes, and a browser behind a forwarded port, call it.
setsid nohup ~/venv/bin/mlflow server --host 0.0.0.0 --port 5000 \
    --backend-store-uri sqlite:////home/ray/mlflow/mlflow.db \
    --serve-artifacts --artifacts-destination "s3://$DEPTHFLOW_BUCKET/mlflow/artifacts" \
    --allowed-hosts "localhost:5000,127.0.0.1:5000,$(hostname -I | cut -d' ' -f1):5000,$(hostname -f):5000" \
    > ~/mlflow/server.log 2>&1 &

exec 9> ~/mlflow/copies.lock
flock --nonblock 9 || exit 0
setsid nohup ~/venv/bin/python ~/depthflow/mlflow_database.py keep --database ~/mlflow/mlflow.db --copy "$copy" \
    --every-s 900 > ~/mlflow/copies.log 2>&1 &
