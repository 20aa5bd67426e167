//! The plain way: a pool in the application's data.

use actix_web::{App, HttpServer, web};
use forkpool::prelude::*;

use crate::harness::*;
use crate::service::{Service, request};

async fn pid(pool: web::Data<PoolHandle<Probe>>) -> String {
    answer(pool.send(Pid)).await.map_or_else(|failure| failure.to_string(), |pid| pid.to_string())
}

#[test]
fn a_service_answers_from_a_worker() {
    run(async {
        let pool = pool_of_one();
        let data = web::Data::new(pool.clone());
        let service = Service::start(|listener| {
            let app = move || App::new().app_data(data.clone()).route("/pid", web::get().to(pid));
            Ok(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
        });
        let answered = request(service.address, "GET", "/pid", &[], b"").await;
        assert_eq!(answered.status, 200);
        assert_eq!(answered.text(), pool.snapshot().workers[0].pid.to_string());
        service.stop().await;
    });
}
