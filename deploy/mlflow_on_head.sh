#!/usr/bin/env bash
# Starts MLflow on the head node, and a backup of its database every 15 minutes; does nothing if it is running.
# cluster.yaml calls it. After a crash: ray exec cluster.yaml 'bash ~/depthflow/mlflow_on_head.sh'
set -euo pipefail
port=${MLFLOW_PORT:-5000}
database=$HOME/mlflow/mlflow.db
copy=s3://$DEPTHFLOW_BUCKET/mlflow/mlflow.db
if (echo > "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then exit 0; fi

# Restores the database on a new disk; keeps an existing one.
~/venv/bin/python ~/depthflow/mlflow_database.py restore --database "$database" --copy "$copy"

# Allows the host names used by nodes and by a browser through a forwarded port.
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
