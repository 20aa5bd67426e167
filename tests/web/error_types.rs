//! Errors of users' own, as a service of three endpoints has them: no line matches on the kind of a failure.

use actix_web::{App, HttpServer, web};
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

use crate::harness::*;
use crate::service::{Service, request};

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
enum ShopError {
    #[error("there is no article {0}")]
    NoSuchArticle(u64),
    #[error("{name} is sold out")]
    SoldOut { name: String },
    #[error("it was withdrawn")]
    Withdrawn,
    #[error(transparent)]
    Worker(#[from] Failure),
}

forkpool::response_error!(ShopError {
    Worker(Failure),
    NoSuchArticle | Withdrawn => NOT_FOUND,
    _ => CONFLICT,
});

#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("\"{0}\" is no name")]
    Name(String),
    #[error(transparent)]
    Worker(#[from] Failure),
}

forkpool::response_error!(json ApiError { Worker(Failure), Name => UNPROCESSABLE_ENTITY });

#[derive(Debug, thiserror::Error)]
enum OnlyWorker {
    #[error(transparent)]
    Worker(#[from] Failure),
}

forkpool::response_error!(OnlyWorker { Worker(Failure) });

type Probes = web::Data<PoolHandle<Probe>>;

async fn shop(article: web::Path<u64>, pool: Probes) -> Result<String, ShopError> {
    match *article {
        1 => Ok(pool.send(EchoText("a lamp".to_owned())).await?),
        2 => Err(ShopError::SoldOut { name: "the chair".to_owned() }),
        3 => Err(ShopError::Withdrawn),
        4 => Ok(pool.send(Panic("of the lamp".to_owned())).await.map(|()| String::new())?),
        unknown => Err(ShopError::NoSuchArticle(unknown)),
    }
}

async fn api(name: web::Path<String>, pool: Probes) -> Result<web::Json<String>, ApiError> {
    match name.as_str() {
        "crash" => pool.send(Exit(3)).await?,
        "large" => drop(pool.send(Echo(vec![0; 2000])).await?),
        name => return Err(ApiError::Name(name.to_owned())),
    }
    Ok(web::Json(pool.send(EchoText("a name".to_owned())).await?))
}

async fn only(pool: Probes) -> Result<String, OnlyWorker> {
    pool.send(Exit(3)).await?;
    Ok(String::new())
}

/// H1
#[test]
fn an_error_enum_of_the_users_is_a_response_by_one_line() {
    let table = [
        ("/shop/1", 200, "a lamp"),
        ("/shop/2", 409, "the chair is sold out"),
        ("/shop/3", 404, "it was withdrawn"),
        ("/shop/4", 500, "an internal error occurred"),
        ("/shop/5", 404, "there is no article 5"),
        ("/api/x", 422, r#"{"error":"\"x\" is no name"}"#),
        ("/api/crash", 500, r#"{"error":"an internal error ended the request"}"#),
        ("/api/large", 413, r#"{"error":"the request is too large"}"#),
        ("/only", 500, "an internal error ended the request"),
    ];
    run(async {
        let pool = pool().workers(1..=1).max_payload(1000).start().expect("the pool starts");
        let data = web::Data::new(pool.clone());
        let service = Service::start(|listener| {
            let app = move || {
                App::new()
                    .app_data(data.clone())
                    .route("/shop/{article}", web::get().to(shop))
                    .route("/api/{name}", web::get().to(api))
                    .route("/only", web::get().to(only))
            };
            Ok(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
        });
        for (path, status, body) in table {
            let answered = request(service.address, "GET", path, &[], b"").await;
            assert_eq!((answered.status, answered.text().as_str()), (status, body), "{path}");
            let is_json = answered.headers["content-type"] == "application/json";
            assert_eq!(is_json, path.starts_with("/api"), "{path}");
        }
        service.stop().await;
    });
}
